// One level (eq. 2-8, 15) and its gradient, on the rows of distinct blocks.
//
// 1. Channel 0 is the constant channel (eq. 12): batch norm and convolution are one matrix, the site tensor (eq. 15, 16).
//    Rows are padded with zeros to whole vectors.
// 2. Through the batch's statistics a feature's gradient is count * (offset + slope * (feature - mean)) (theory.md, eq.
//    K1), with offset and slope from small matrices.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "blocks.h"
#include "memory.h"
#include "products.h"
#include "workers.h"

namespace qcnn {

using products::kOuterRows;

constexpr int64_t kAhead = 4;  // rows that are prefetched

template <class T>
int64_t padded(int64_t channels) {  // constant channel, other channels, zeros
  return products::padded_to_lanes<T>(1 + channels);
}

// The features of some rows entering a level: products of the children's mapped features (eq. 8); at level 0 the basis
// functions of grey levels (eq. 1).
template <class T>
void pool_rows(const Blocks& blocks, const Tensor& mapped, const Tensor& table, int64_t first, int64_t rows, T* output) {
  if (!blocks.left.defined()) {
    const int64_t channels = table.size(1), width = padded<T>(channels);
    for (int64_t row = first; row < first + rows; ++row, output += width) {
      std::fill_n(output, width, T(0));
      output[0] = 1;
      std::copy_n(data<T>(table) + row % 256 * channels, channels, output + 1);
    }
    return;
  }
  const int64_t width = mapped.size(1);
  const T* input = data<T>(mapped);
  const int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
  for (int64_t row = first; row < first + rows; ++row, output += width) {
    const T *a = input + left[row] * width, *b = input + right[row] * width;
    if (row + kAhead < first + rows)
      for (int64_t k = 0; k < width; k += 64 / sizeof(T)) {
        __builtin_prefetch(input + left[row + kAhead] * width + k);
        __builtin_prefetch(input + right[row + kAhead] * width + k);
      }
    for (int64_t k = 0; k < width; ++k) output[k] = a[k] * b[k];
  }
}

// The features entering a level and, if mean is defined, their mean and biased variance over all occurrences (eq. 4; K1 in
// theory.md). Sums are about the first row, so squares do not cancel.
template <class T>
Tensor pool(const Blocks& blocks, const Tensor& mapped, const Tensor& table, const Tensor& mean, const Tensor& var) {
  const int64_t width = blocks.left.defined() ? mapped.size(1) : padded<T>(table.size(1));
  const Tensor features = pooled({blocks.rows, width}, table.options());
  T *values = data<T>(features), *count = data<T>(blocks.count);
  if (!mean.defined()) {
    Chunks(blocks).for_each([&](int64_t, int64_t begin, int64_t end, int64_t) {
      pool_rows(blocks, mapped, table, begin, end - begin, values + begin * width);
    });
    return features;
  }
  std::vector<T> first(width);
  pool_rows(blocks, mapped, table, 0, 1, first.data());
  const Chunks chunks(blocks);
  const Tensor partial = pooled_zeros({chunks.count(), 2, width}, features.options());
  chunks.for_each([&](int64_t chunk, int64_t begin, int64_t end, int64_t) {
    T* sum = data<T>(partial) + chunk * 2 * width;
    T* squares = sum + width;
    for (int64_t block = begin; block < end; block += kBlockRows) {
      const int64_t last = std::min(block + kBlockRows, end);
      pool_rows(blocks, mapped, table, block, last - block, values + block * width);
      for (int64_t row = block; row < last; ++row) {
        const T* feature = values + row * width;
        for (int64_t k = 0; k < width; ++k) {
          const T difference = feature[k] - first[k], weighted = count[row] * difference;
          sum[k] += weighted;
          squares[k] += weighted * difference;
        }
      }
    }
  });
  std::vector<double> total(2 * width);
  const T* sums = data<T>(partial);
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk)
    for (int64_t k = 0; k < 2 * width; ++k) total[k] += sums[chunk * 2 * width + k];
  T *means = data<T>(mean), *variances = data<T>(var);
  for (int64_t k = 0; k < mean.numel(); ++k) {
    const double shift = total[1 + k] / blocks.occurrences;
    means[k] = first[1 + k] + shift;
    variances[k] = std::max(total[width + 1 + k] / blocks.occurrences - shift * shift, 0.0);
  }
  return features;
}

// running += momentum (factor value - running), as in PyTorch's batch norm.
template <class T>
void move_towards(const Tensor& running, const Tensor& value, T factor, T momentum) {
  T* average = data<T>(running);
  const T* target = data<T>(value);
  for (int64_t k = 0; k < running.numel(); ++k) average[k] += momentum * (factor * target[k] - average[k]);
}

// Batch norm with given statistics: x -> scale (x - center) + beta (eq. 4). The center is subtracted first, so products
// round only the variation.
template <class T>
struct Affine {
  std::vector<T> deviation, scale, beta, center;  // deviation: 1 / sqrt(var + epsilon); center: 0 for the constant channel
  Affine(const Tensor& gamma, const Tensor& betas, const Tensor& mean, const Tensor& var, double epsilon)
      : deviation(gamma.numel()), scale(gamma.numel()), beta(gamma.numel()), center(padded<T>(gamma.numel())) {
    const T *gammas = data<T>(gamma), *means = data<T>(mean), *variances = data<T>(var);
    for (int64_t k = 0; k < gamma.numel(); ++k) {
      deviation[k] = 1 / std::sqrt(variances[k] + T(epsilon));
      scale[k] = gammas[k] * deviation[k];
      beta[k] = data<T>(betas)[k];
      center[1 + k] = means[k];
    }
  }
};

// The site tensors of one level for centered features: [[1, 0], [a beta, a diag(scale)]] (eq. 15), (matrices,
// padded(outputs), padded(inputs)).
template <class T>
Tensor site_tensors_of(const Tensor& weight, const Affine<T>& norm) {
  const int64_t matrices = weight.size(0), outputs = weight.size(1), inputs = weight.size(2);
  const int64_t height = padded<T>(outputs), width = padded<T>(inputs);
  const Tensor site_tensors = pooled({matrices, height, width}, weight.options());
  workers::parallel_for(matrices * height, kThreadWork / width + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* const site = data<T>(site_tensors) + row * width;
      const int64_t output = row % height - 1;
      std::fill_n(site, width, T(0));
      if (output == -1) site[0] = 1;
      if (output < 0 || output >= outputs) continue;
      const T* a = data<T>(weight) + (row / height * outputs + output) * inputs;
      T shift = 0;
      for (int64_t k = 0; k < inputs; ++k) {
        site[1 + k] = a[k] * norm.scale[k];
        shift += a[k] * norm.beta[k];
      }
      site[0] = shift;
    }
  });
  return site_tensors;
}

// The site tensors of one level, to act on rows.
template <class T>
class SiteTensors {
 public:
  SiteTensors(const Tensor& site_tensors, const Affine<T>& norm, bool bfloat16_products)
      : mapped_width_(site_tensors.size(1)), center_(norm.center), options_(site_tensors.options()) {
    const int64_t depth = 1 + norm.scale.size(), width = site_tensors.size(2);
    for (int64_t side = 0; side < site_tensors.size(0); ++side)
      factors_.emplace_back(data<T>(site_tensors) + side * mapped_width_ * width, products::Layout::kColumns, depth,
                            mapped_width_, width, bfloat16_products);
  }

  // features_of(row, rows, buffer) returns the features of up to kBlockRows rows, in the buffer if it must make them. They
  // are centered in place.
  template <class Features>
  Tensor map(const Blocks& blocks, const Features& features_of) const {
    Tensor mapped = pooled({blocks.rows, mapped_width_}, options_);
    T* output = data<T>(mapped);
    const int64_t width = center_.size();
    Chunks(blocks).for_each([&](int64_t, int64_t begin, int64_t end, int64_t side) {
      static thread_local products::Scratch<T> buffer;
      for (int64_t row = begin; row < end; row += kBlockRows) {
        const int64_t rows = std::min(kBlockRows, end - row);
        T* const features = features_of(row, rows, buffer.of(kBlockRows * width));
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t k = 0; k < width; ++k) features[i * width + k] -= center_[k];
        factors_[factors_.size() == 2 ? side : 0].multiply(features, width, output + row * mapped_width_, mapped_width_,
                                                           rows);
      }
    });
    return mapped;
  }

 private:
  int64_t mapped_width_;
  std::vector<T> center_;
  at::TensorOptions options_;
  std::vector<products::RightFactor<T>> factors_;
};

// The gradient of a level's site tensors, (matrices, padded(outputs), padded(inputs)); its first row and its padding are
// meaningless. If of_features, also the gradient of the features through the site tensors, without the statistics.
template <class T>
std::pair<Tensor, Tensor> level_gradients(const Blocks& blocks, const Tensor& features, const Tensor& mapped_gradient,
                                          const Tensor& site_tensors, int64_t outputs, bool of_features,
                                          bool bfloat16_products) {
  const int64_t matrices = site_tensors.size(0), width = features.size(1), mapped_width = mapped_gradient.size(1);
  const int64_t size = mapped_width * width;
  std::vector<products::RightFactor<T>> factors;
  Tensor gradient;
  if (of_features) {
    gradient = pooled(features.sizes(), features.options());
    for (int64_t side = 0; side < matrices; ++side)
      factors.emplace_back(data<T>(site_tensors) + side * size, products::Layout::kRows, 1 + outputs, width, width,
                           bfloat16_products);
  }
  const Chunks chunks(blocks);
  const Tensor partial = pooled({chunks.count(), mapped_width, width}, features.options());
  const T *feature = data<T>(features), *above = data<T>(mapped_gradient);
  chunks.for_each([&](int64_t chunk, int64_t begin, int64_t end, int64_t side) {
    for (int64_t row = begin; row < end; row += kOuterRows)
      products::outer_products(above + row * mapped_width, mapped_width, 1 + outputs, feature + row * width, width,
                               data<T>(partial) + chunk * size, std::min(kOuterRows, end - row), row > begin,
                               bfloat16_products);
    if (of_features)
      factors[matrices == 2 ? side : 0].multiply(above + begin * mapped_width, mapped_width,
                                                 data<T>(gradient) + begin * width, width, end - begin);
  });
  if (partial.size(0) == matrices) return {partial, gradient};
  const Tensor site_gradient = at::zeros({matrices, mapped_width, width}, features.options());
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    if (chunks.begin(chunk) == chunks.end(chunk)) continue;
    const T* part = data<T>(partial) + chunk * size;
    T* sum = data<T>(site_gradient) + chunks.side(chunk) * size;
    for (int64_t k = width; k < (1 + outputs) * width; ++k) sum[k] += part[k];
  }
  return {site_gradient, gradient};
}

// The gradients of gamma, beta and weight from the site tensors' gradient; and offset and slope of the features' gradient
// through the batch's statistics, zero if statistics are fixed.
template <class T>
struct ParameterGradients {
  Tensor gamma, beta, weight;
  std::vector<T> offset, slope;
  ParameterGradients(const Tensor& given_weight, const Affine<T>& norm, const Tensor& site_gradient, int64_t occurrences,
                     bool of_batch)
      : weight(at::empty_like(given_weight)), offset(site_gradient.size(2)), slope(site_gradient.size(2)) {
    const int64_t matrices = given_weight.size(0), outputs = given_weight.size(1), inputs = given_weight.size(2);
    const int64_t height = site_gradient.size(1), width = site_gradient.size(2);
    std::vector<T> scale_gradient(inputs), shift_gradient(inputs);
    for (int64_t row = 0; row < matrices * outputs; ++row) {
      const T* const a = data<T>(given_weight) + row * inputs;
      const T* const site = data<T>(site_gradient) + (row / outputs * height + 1 + row % outputs) * width;
      T* const a_gradient = data<T>(weight) + row * inputs;
      T *const scales = scale_gradient.data(), *const shifts = shift_gradient.data();
#pragma GCC ivdep
      for (int64_t k = 0; k < inputs; ++k) {
        a_gradient[k] = site[1 + k] * norm.scale[k] + site[0] * norm.beta[k];
        scales[k] += site[1 + k] * a[k];
        shifts[k] += site[0] * a[k];
      }
    }
    gamma = at::empty({inputs}, given_weight.options());
    beta = at::empty({inputs}, given_weight.options());
    T *gammas = data<T>(gamma), *betas = data<T>(beta);
    for (int64_t k = 0; k < inputs; ++k) {
      betas[k] = shift_gradient[k];
      gammas[k] = scale_gradient[k] * norm.deviation[k];
      if (!of_batch) continue;
      slope[1 + k] = -scale_gradient[k] * norm.scale[k] * norm.deviation[k] * norm.deviation[k] / occurrences;
      offset[1 + k] = -norm.scale[k] * shift_gradient[k] / occurrences;
    }
  }
};

// Back through pooling (eq. 8): a child's gradient is the sum over its parent blocks of parent gradient * sibling. The
// parent's gradient through the statistics, count * (offset + slope * (feature - mean)), is added here.
template <class T, int64_t Bytes>
void gather_from_parents(const Blocks& blocks, const Tensor& gradient, const Tensor& mapped, const std::vector<T>& offset,
                         const std::vector<T>& slope, const std::vector<T>& center, const Tensor& mapped_gradient) {
  using Vector = products::Lanes<T, Bytes>;
  const int64_t vectors = mapped.size(1) * sizeof(T) / Bytes, children = mapped.size(0);
  const T* count = data<T>(blocks.count);
  const auto of = [](const T* numbers) { return reinterpret_cast<const Vector*>(numbers); };
  const auto lanes_of = [](const std::vector<T>& numbers, int64_t v) {
    Vector some;
    std::memcpy(&some, numbers.data() + v * (Bytes / sizeof(T)), Bytes);
    return some;
  };
  const Vector *above = of(data<T>(gradient)), *value = of(data<T>(mapped));
  Vector* const output = reinterpret_cast<Vector*>(data<T>(mapped_gradient));
  const Parents parents(blocks, children);
  // Threads get equal numbers of parents, not of children.
  const int64_t entries = 2 * blocks.rows;
  const auto child_at = [&](int64_t entry) {
    return std::lower_bound(parents.first.begin(), parents.first.end() - 1, entry) - parents.first.begin();
  };
  workers::parallel_for(entries, kThreadWork / mapped.size(1) + 1, [&](int64_t begin, int64_t end) {
    const int64_t last = end == entries ? children : child_at(end);
    for (int64_t child = begin == 0 ? 0 : child_at(begin); child < last; ++child) {
      const Vector* const own = value + child * vectors;
      Vector* const sum = output + child * vectors;
      std::fill_n(sum, vectors, Vector{});
      for (int64_t entry = parents.first[child]; entry < parents.first[child + 1]; ++entry) {
        const Vector* const sibling = value + parents.sibling[entry] * vectors;
        const Vector* const g = above + parents.parent[entry] * vectors;
        const T occurrences = count[parents.parent[entry]];
        const int64_t ahead = std::min(entry + kAhead, entries - 1);
        for (int64_t v = 0; v < vectors; ++v) {
          __builtin_prefetch(above + parents.parent[ahead] * vectors + v);
          __builtin_prefetch(value + parents.sibling[ahead] * vectors + v);
        }
        for (int64_t v = 0; v < vectors; ++v) {
          const Vector variation = own[v] * sibling[v] - lanes_of(center, v);
          const Vector through_statistics = lanes_of(offset, v) + lanes_of(slope, v) * variation;
          sum[v] += (g[v] + occurrences * through_statistics) * sibling[v];
        }
      }
    }
  });
}

template <class T>
Tensor mapped_gradient_below(const Blocks& blocks, const Tensor& gradient, const Tensor& mapped,
                             const std::vector<T>& offset, const std::vector<T>& slope,
                             const std::vector<T>& center) {
  const Tensor mapped_gradient = pooled(mapped.sizes(), mapped.options());
  const auto gather = mapped.size(1) * sizeof(T) % products::kWidestBytes == 0
                          ? gather_from_parents<T, products::kWidestBytes>
                          : gather_from_parents<T, products::kNarrowBytes>;
  gather(blocks, gradient, mapped, offset, slope, center, mapped_gradient);
  return mapped_gradient;
}

}  // namespace qcnn
