// A whole q-CNN, level by level: forward, evaluation, backward.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "blocks.h"
#include "level.h"
#include "memory.h"
#include "workers.h"

namespace qcnn {

constexpr int64_t kPartImages = 250;  // images evaluated at a time: more share more blocks, fewer fit into the cache

// Everything that scores depend on, except `Parameters`.
struct Setting {
  Tensor x, table;
  Tensors mean, var;  // to normalise by; empty for the batch's
  Tensors running_mean, running_var;
  double momentum;
  std::vector<double> epsilon;
  bool bfloat16_products;  // see products.h
};

// gamma of every level, then beta, then weight.
struct Parameters {
  at::TensorList all;
  int64_t levels = all.size() / 3;
  const Tensor& gamma(int64_t level) const { return all[level]; }
  const Tensor& beta(int64_t level) const { return all[levels + level]; }
  const Tensor& weight(int64_t level) const { return all[2 * levels + level]; }
};

enum Kept { kLeft, kRight, kCount, kFeatures, kSiteTensors, kMapped, kFirstRight, kKept };

// The scores, every level's statistics, and what the gradient needs: kKept tensors per level and the row of every image.
struct Forward {
  Tensor scores;
  Tensors mean, var, kept;
};

template <class T>
Tensor scores_of(const Tensor& mapped, const Tensor& ids, int64_t images, int64_t classes) {
  Tensor scores = at::empty({images, classes}, mapped.options());
  const T* last = data<T>(mapped);
  const int32_t* row = data<int32_t>(ids);
  for (int64_t image = 0; image < images; ++image)
    std::copy_n(last + row[image] * mapped.size(1) + 1, classes, data<T>(scores) + image * classes);
  return scores;
}

template <class T>
Forward forward(const Setting& setting, const Parameters& parameters, bool keep) {
  const Tensor &x = setting.x, &table = setting.table;
  Forward result{{}, setting.mean, setting.var, {}};
  const bool of_batch = setting.mean.empty();
  Tensor ids, mapped;
  for (int64_t level = 0; level < parameters.levels; ++level) {
    const Tensor &gamma = parameters.gamma(level), &weight = parameters.weight(level);
    const Blocks blocks = next_blocks<T>(ids, x, level, weight.size(0), table);
    if (of_batch) {
      result.mean.push_back(at::empty_like(gamma));
      result.var.push_back(at::empty_like(gamma));
    }
    const Tensor features = pool<T>(blocks, mapped, table, of_batch ? result.mean[level] : Tensor(),
                                    of_batch ? result.var[level] : Tensor());
    if (!setting.running_mean.empty()) {
      const T unbiased = T(blocks.occurrences) / std::max<int64_t>(blocks.occurrences - 1, 1);
      move_towards<T>(setting.running_mean[level], result.mean[level], 1, setting.momentum);
      move_towards<T>(setting.running_var[level], result.var[level], unbiased, setting.momentum);
    }
    const Affine<T> norm(gamma, parameters.beta(level), result.mean[level], result.var[level], setting.epsilon[level]);
    const Tensor site_tensors = site_tensors_of<T>(weight, norm);
    mapped = SiteTensors<T>(site_tensors, norm, setting.bfloat16_products).map(blocks, [&](int64_t row, int64_t, T*) {
      return data<T>(features) + row * features.size(1);
    });
    if (keep) {
      const Tensor first_right = at::full({}, blocks.first_right, at::kLong);
      for (const Tensor& tensor : {blocks.left, blocks.right, blocks.count, features, site_tensors, mapped, first_right})
        result.kept.push_back(tensor.defined() ? tensor : at::empty({0}, at::kInt));
    }
  }
  result.scores = scores_of<T>(mapped, ids, x.size(0), parameters.weight(parameters.levels - 1).size(1));
  if (keep) result.kept.push_back(ids);
  return result;
}

// The scores by fixed statistics, where images are independent. All images share the few pairs of grey levels; above them
// threads share the images.
template <class T>
Tensor evaluate(const Setting& setting, const Parameters& parameters) {
  const Tensor &x = setting.x, &table = setting.table;
  const int64_t images = x.size(0), sites = x.size(1), shared = std::min<int64_t>(parameters.levels, 2);
  const int64_t classes = parameters.weight(parameters.levels - 1).size(1);
  Tensor scores = at::empty({images, classes}, table.options());
  std::vector<SiteTensors<T>> site_tensors;
  for (int64_t level = 0; level < parameters.levels; ++level) {
    const Affine<T> norm(parameters.gamma(level), parameters.beta(level), setting.mean[level], setting.var[level],
                         setting.epsilon[level]);
    site_tensors.emplace_back(site_tensors_of<T>(parameters.weight(level), norm), norm, setting.bfloat16_products);
  }
  const auto map_level = [&](int64_t level, const Tensor& some, Tensor& ids, const Tensor& below) {
    const Blocks blocks = next_blocks<T>(ids, some, level, parameters.weight(level).size(0), table);
    return site_tensors[level].map(blocks, [&](int64_t row, int64_t rows, T* buffer) {
      pool_rows(blocks, below, table, row, rows, buffer);
      return buffer;
    });
  };
  Tensor shared_ids, shared_rows;
  for (int64_t level = 0; level < shared; ++level) shared_rows = map_level(level, x, shared_ids, shared_rows);
  const int64_t ids_per_image = sites >> (shared - 1);
  workers::parallel_for((images + kPartImages - 1) / kPartImages, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kPartImages; first < std::min(end * kPartImages, images); first += kPartImages) {
      const int64_t count = std::min(kPartImages, images - first);
      const Tensor part = x.narrow(0, first, count);
      Tensor mapped = shared_rows;
      Tensor ids = at::from_blob(data<int32_t>(shared_ids) + first * ids_per_image, {count * ids_per_image}, at::kInt);
      for (int64_t level = shared; level < parameters.levels; ++level) mapped = map_level(level, part, ids, mapped);
      std::copy_n(data<T>(scores_of<T>(mapped, ids, count, classes)), count * classes, data<T>(scores) + first * classes);
    }
  });
  return scores;
}

// The gradients of all parameters, in their order, from the scores' gradient and what the forward pass kept. of_batch: the
// statistics were the batch's, so gradients flow through them.
template <class T>
Tensors backward(const Tensor& scores_gradient, const Parameters& parameters, at::TensorList mean, at::TensorList var,
                 at::TensorList kept, const std::vector<double>& epsilon, bool of_batch, bool bfloat16_products) {
  const int64_t levels = parameters.levels, images = scores_gradient.size(0), classes = scores_gradient.size(1);
  Tensors gradients(3 * levels);
  Tensor mapped_gradient = at::zeros_like(kept[kKept * (levels - 1) + kMapped]);
  const int32_t* ids = data<int32_t>(kept.back());
  T* last = data<T>(mapped_gradient);
  const T* given = data<T>(scores_gradient);
  for (int64_t image = 0; image < images; ++image)
    for (int64_t k = 0; k < classes; ++k)
      last[ids[image] * mapped_gradient.size(1) + 1 + k] += given[image * classes + k];

  for (int64_t level = levels - 1; level >= 0; --level) {
    const Tensor* of_level = &kept[kKept * level];
    const Tensor &features = of_level[kFeatures], &weight = parameters.weight(level);
    const Blocks blocks{features.size(0),  *data<int64_t>(of_level[kFirstRight]), images << (levels - 1 - level),
                        of_level[kLeft], of_level[kRight], of_level[kCount]};
    const Affine<T> norm(parameters.gamma(level), parameters.beta(level), mean[level], var[level], epsilon[level]);
    const auto [site_gradient, gradient] = level_gradients<T>(blocks, features, mapped_gradient, of_level[kSiteTensors],
                                                              weight.size(1), level > 0, bfloat16_products);
    const ParameterGradients<T> own(weight, norm, site_gradient, blocks.occurrences, of_batch);
    gradients[level] = own.gamma, gradients[levels + level] = own.beta, gradients[2 * levels + level] = own.weight;
    if (level > 0)
      mapped_gradient = mapped_gradient_below<T>(blocks, gradient, kept[kKept * (level - 1) + kMapped], own.offset,
                                                 own.slope, norm.center);
  }
  return gradients;
}

}  // namespace qcnn
