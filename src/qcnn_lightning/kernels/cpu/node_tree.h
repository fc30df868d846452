// A tree whose nodes have matrices of their own: overlaps of its block states, and amplitudes of a batch (theory.md, eq. G1, N1).
//
// For a node n of level l with states |phi_I>, without their powers of two: maps m (mapped, states), Gram matrices G of the
// states and H = m G m^T of the mapped ones, features Z (rows, states) of the batch's distinct blocks and V = Z m^T. The states
// of a parent are products of its children's mapped states: G = H_left * H_right, Z = V_left * V_right, elementwise. Every state
// and every row has its own power of two, which autograd would treat as a constant.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "memory.h"
#include "node_rows.h"
#include "powers.h"
#include "products.h"
#include "workers.h"

namespace qcnn {

// What one level keeps for the way back. Columns are padded with zeros by `padded_to_lanes`.
struct NodeLevel {
  int64_t states, mapped, width, mapped_width;  // numbers of channels, and padded
  NodeRows rows;
  Tensor maps, transposed;       // (nodes, mapped, width), (nodes, states, mapped_width)
  Tensor gram, mapped_gram;      // (nodes, states, width), (nodes, mapped, mapped_width); gram of level 0: 1 matrix, or none
  Tensor exponent, mapped_exponent;  // (nodes, states), (nodes, mapped), int64: of the states
  Tensor features, mapped_features;  // (rows, width), (rows, mapped_width)
  Tensor row_exponent;           // (rows,) int64: what was taken out of the features
};

template <class T>
int64_t lanes(int64_t channels) {
  return products::padded_to_lanes<T>(channels);
}

template <class T>
class NodeTree {
 public:
  // x: (images, sites) uint8. table: (256, local), f_i of the grey levels. pixel_gram: overlaps of the f_i; undefined if they
  // are orthonormal. weights: (sites / 2^l, d_{l+1}, d_l) of level l = 0 .. L-1.
  NodeTree(const Tensor& x, const Tensor& table, const Tensor& pixel_gram, const Tensor& padding, const Tensors& weights)
      : table_(table), padding_(padding), weights_(weights), orthonormal_(!pixel_gram.defined()) {
    const auto options = table.options();
    for (size_t l = 0; l <= weights.size(); ++l) {
      const bool top = l == weights.size();
      const int64_t states = top ? weights[l - 1].size(1) : weights[l].size(2), mapped = top ? 0 : weights[l].size(1);
      const int64_t width = lanes<T>(states), mapped_width = top ? 0 : lanes<T>(mapped);
      NodeRows rows = l == 0 ? rows_of_pixels(x, data<bool>(padding)) : rows_of_blocks(levels_.back().rows);
      const int64_t nodes = rows.nodes, total = rows.total();
      levels_.push_back({states, mapped, width, mapped_width, std::move(rows), pooled({nodes, mapped, width}, options),
                         pooled({nodes, states, mapped_width}, options),
                         l == 0 ? Tensor() : pooled({nodes, states, width}, options),
                         pooled({nodes, mapped, mapped_width}, options), pooled({nodes, states}, at::kLong),
                         pooled({nodes, mapped}, at::kLong), pooled({total, width}, options),
                         pooled({total, mapped_width}, options), pooled({total}, at::kLong)});
    }
    start(pixel_gram);
    for (size_t l = 0; l < weights.size(); ++l) {
      const NodeLevel &below = levels_[l], &above = levels_[l + 1];
      workers::parallel_for(above.rows.nodes, l < 2 ? kNodesAtATime : 1, [&](int64_t begin, int64_t end) {
        for (int64_t node = begin; node < end; ++node) {
          map(l, 2 * node), map(l, 2 * node + 1);
          join(below, above, node);
        }
      });
    }
  }

  // The states of the whole image and their features: (images, states), (images,), (states, states), (states,).
  std::tuple<Tensor, Tensor, Tensor, Tensor> image() const {
    const NodeLevel& top = levels_.back();
    const int64_t images = top.rows.images, states = top.states;
    const Tensor features = at::empty({images, states}, table_.options()), exponent = at::zeros({images}, at::kLong);
    const Tensor gram = at::empty({states, states}, table_.options());
    const int32_t* const id = data<int32_t>(top.rows.ids);
    for (int64_t i = 0; i < images; ++i)
      std::copy_n(data<T>(top.features) + id[i] * top.width, states, data<T>(features) + i * states);
    for (int64_t i = 0; i < states; ++i)
      std::copy_n(data<T>(top.gram) + i * top.width, states, data<T>(gram) + i * states);
    add_row_exponents(exponent);
    return {features, exponent, gram, top.exponent.reshape({states}).clone()};
  }

  // The gradients of table and pixel_gram (undefined if the latter is, or without of_pixels), then of the weights, from those
  // of the image's features and Gram matrix.
  Tensors gradients(const Tensor& of_features, const Tensor& of_gram, bool of_pixels) const {
    const NodeLevel& top = levels_.back();
    const int64_t images = top.rows.images, states = top.states;
    Tensor features = pooled_zeros(top.features.sizes(), table_.options());
    Tensor gram = pooled_zeros(top.gram.sizes(), table_.options());
    const int32_t* const id = data<int32_t>(top.rows.ids);
    for (int64_t i = 0; i < images; ++i)
      for (int64_t k = 0; k < states; ++k)
        data<T>(features)[id[i] * top.width + k] += data<T>(of_features)[i * states + k];
    const T* const given = data<T>(of_gram);
    for (int64_t i = 0; i < states; ++i)
      for (int64_t k = 0; k < states; ++k)
        data<T>(gram)[i * top.width + k] = (given[i * states + k] + given[k * states + i]) / 2;
    Tensors result(2 + weights_.size());
    for (int64_t l = int64_t(weights_.size()) - 1; l >= 0; --l) {
      const NodeLevel& level = levels_[l];
      const Tensor& of_weights = result[2 + l] = at::empty_like(weights_[l]);
      const Tensor below = l == 0 ? Tensor() : pooled(level.features.sizes(), table_.options());
      const Tensor gram_below = l == 0 ? Tensor() : pooled(level.gram.sizes(), table_.options());
      const int64_t parents = level.rows.nodes / 2;
      // The same pieces for any number of threads: sums over pixels do not depend on it.
      const int64_t pieces = l == 0 ? std::min(parents, kPieces) : parents;
      const Tensor tables = l == 0 && of_pixels ? pooled_zeros({pieces, 256, level.width}, table_.options()) : Tensor();
      const Tensor grams =
          tables.defined() && !orthonormal_ ? pooled_zeros({pieces, level.states, level.width}, table_.options()) : Tensor();
      workers::parallel_for(pieces, l == 1 ? kNodesAtATime : 1, [&](int64_t begin, int64_t end) {
        for (int64_t piece = begin; piece < end; ++piece)
          for (int64_t node = parents * piece / pieces; node < parents * (piece + 1) / pieces; ++node)
            for (int64_t side = 0; side < 2; ++side)
              back(l, 2 * node + side, features, gram, of_weights, below, gram_below,
                   tables.defined() ? data<T>(tables) + piece * 256 * level.width : nullptr,
                   grams.defined() ? data<T>(grams) + piece * level.states * level.width : nullptr);
      });
      if (tables.defined()) {
        result[0] = tables.sum(0).narrow(1, 0, level.states).contiguous();
        if (grams.defined()) result[1] = grams.sum(0).narrow(1, 0, level.states).contiguous();
      }
      features = below, gram = gram_below;
    }
    return result;
  }

 private:
  static constexpr int64_t kPieces = 32;

  // Fill level 0: rows of the table and, at a site without a pixel, the constant function alone.
  void start(const Tensor& pixel_gram) {
    NodeLevel& pixels = levels_.front();
    const int64_t states = pixels.states, width = pixels.width;
    std::memset(data<int64_t>(pixels.exponent), 0, pixels.exponent.nbytes());
    std::memset(data<int64_t>(pixels.row_exponent), 0, pixels.row_exponent.nbytes());
    pixels.gram = pooled_zeros({2, states, width}, table_.options());
    T* const gram = data<T>(pixels.gram);
    for (int64_t i = 0; i < states; ++i)
      for (int64_t k = 0; k < states; ++k)
        gram[i * width + k] = orthonormal_ ? T(i == k) : data<T>(pixel_gram)[i * states + k];
    gram[states * width] = 1;
    const bool* const padded = data<bool>(padding_);
    for (int64_t site = 0; site < pixels.rows.nodes; ++site) {
      const int32_t* const level = pixels.rows.left_of(site);
      T* feature = data<T>(pixels.features) + pixels.rows.first[site] * width;
      for (int64_t row = 0; row < pixels.rows.count(site); ++row, feature += width) {
        std::fill_n(feature, width, T(0));
        if (padded[site]) feature[0] = 1;
        else std::copy_n(data<T>(table_) + level[row] * states, states, feature);
      }
    }
  }

  const T* gram_of(int64_t l, int64_t node) const {
    const NodeLevel& level = levels_[l];
    return data<T>(level.gram) + (l == 0 ? int64_t(data<bool>(padding_)[node]) : node) * level.states * level.width;
  }

  bool is_identity(int64_t l, int64_t node) const { return l == 0 && orthonormal_ && !data<bool>(padding_)[node]; }

  // m, H, V and exponents of a node.
  void map(int64_t l, int64_t node) const {
    const NodeLevel& level = levels_[l];
    const int64_t states = level.states, mapped = level.mapped, width = level.width, mapped_width = level.mapped_width;
    const T* const weight = data<T>(weights_[l]) + node * mapped * states;
    const int64_t* const exponent = data<int64_t>(level.exponent) + node * states;
    int64_t* const mapped_exponent = data<int64_t>(level.mapped_exponent) + node * mapped;
    T* const maps = data<T>(level.maps) + node * mapped * width;
    T* const transposed = data<T>(level.transposed) + node * states * mapped_width;
    T* const mapped_gram = data<T>(level.mapped_gram) + node * mapped * mapped_width;
    static thread_local products::Scratch<T> scratch;
    T* const product = scratch.of(mapped * width);
    using Bits = typename powers::Format<T>::Bits;
    static thread_local products::Scratch<Bits> exponents;
    Bits* const own = exponents.of(states);
    std::copy_n(exponent, states, own);
    for (int64_t i = 0; i < mapped; ++i) {
      const T* const from = weight + i * states;
      T* const to = maps + i * width;
      Bits largest = powers::kNone;
      for (int64_t k = 0; k < states; ++k) largest = std::max(largest, powers::exponent_of(from[k]) + own[k]);
      if (largest < powers::kNone / 2) largest = 0;
      mapped_exponent[i] = largest;
      for (int64_t k = 0; k < states; ++k) to[k] = from[k] * powers::Factor<T>(own[k] - largest);
      std::fill(to + states, to + width, T(0));
    }
    transpose(maps, transposed, states, mapped, width, mapped_width);
    if (is_identity(l, node))
      std::copy_n(maps, mapped * width, product);
    else
      products::product(maps, width, int64_t{1}, gram_of(l, node), width, product, width, mapped, width, states, false);
    products::product(product, width, int64_t{1}, transposed, mapped_width, mapped_gram, mapped_width, mapped, mapped_width,
                      states, false);
    // Half the exponent of the squared norm: states of norm about 1.
    static thread_local products::Scratch<T> factors;
    T* const factor = factors.of(mapped_width);
    std::fill_n(factor, mapped_width, T(1));
    for (int64_t i = 0; i < mapped; ++i) {
      const Bits square = powers::exponent_of(mapped_gram[i * mapped_width + i]);
      const Bits shift = square == powers::kNone ? 0 : square >> 1;
      mapped_exponent[i] += shift;
      factor[i] = powers::power<T>(-shift);
    }
    for (int64_t i = 0; i < mapped; ++i) {
      for (int64_t k = 0; k < mapped_width; ++k) mapped_gram[i * mapped_width + k] *= factor[i] * factor[k];
      for (int64_t k = 0; k < width; ++k) maps[i * width + k] *= factor[i];
    }
    for (int64_t k = 0; k < states; ++k)
      for (int64_t i = 0; i < mapped_width; ++i) transposed[k * mapped_width + i] *= factor[i];
    const int64_t first = level.rows.first[node];
    products::product(data<T>(level.features) + first * width, width, int64_t{1}, transposed, mapped_width,
                      data<T>(level.mapped_features) + first * mapped_width, mapped_width, level.rows.count(node),
                      mapped_width, states, false);
  }

  static void transpose(const T* from, T* to, int64_t states, int64_t mapped, int64_t width, int64_t mapped_width) {
    for (int64_t k = 0; k < states; ++k) {
      for (int64_t i = 0; i < mapped; ++i) to[k * mapped_width + i] = from[i * width + k];
      std::fill(to + k * mapped_width + mapped, to + (k + 1) * mapped_width, T(0));
    }
  }

  // G and Z of a node from its children's H and V.
  static void join(const NodeLevel& below, const NodeLevel& above, int64_t node) {
    const int64_t width = above.width, states = above.states;
    const T* const left_gram = data<T>(below.mapped_gram) + 2 * node * states * width;
    const T* const right_gram = left_gram + states * width;
    T* const gram = data<T>(above.gram) + node * states * width;
    for (int64_t k = 0; k < states * width; ++k) gram[k] = left_gram[k] * right_gram[k];
    const int64_t* const exponent = data<int64_t>(below.mapped_exponent) + 2 * node * states;
    for (int64_t k = 0; k < states; ++k)
      data<int64_t>(above.exponent)[node * states + k] = exponent[k] + exponent[states + k];
    const T* const of_left = data<T>(below.mapped_features) + below.rows.first[2 * node] * width;
    const T* const of_right = data<T>(below.mapped_features) + below.rows.first[2 * node + 1] * width;
    const int32_t *left = above.rows.left_of(node), *right = above.rows.right_of(node);
    T* feature = data<T>(above.features) + above.rows.first[node] * width;
    int64_t* const row_exponent = data<int64_t>(above.row_exponent) + above.rows.first[node];
    for (int64_t row = 0; row < above.rows.count(node); ++row, feature += width) {
      const T *a = of_left + left[row] * width, *b = of_right + right[row] * width;
      T largest = 0;
      for (int64_t k = 0; k < width; ++k) {
        feature[k] = a[k] * b[k];
        largest = std::max(largest, feature[k] < 0 ? -feature[k] : feature[k]);
      }
      const int64_t shift = largest == 0 ? 0 : powers::exponent_of(largest);
      row_exponent[row] = shift;
      const powers::Factor<T> factor(-shift);
      for (int64_t k = 0; k < width; ++k) feature[k] = feature[k] * factor;
    }
  }

  // Add what was taken out of every image's rows, at all nodes.
  void add_row_exponents(const Tensor& exponent) const {
    int64_t* const sum = data<int64_t>(exponent);
    for (const NodeLevel& level : levels_)
      for (int64_t node = 0; &level != &levels_.front() && node < level.rows.nodes; ++node) {
        const int32_t* const id = data<int32_t>(level.rows.ids) + node * level.rows.images;
        const int64_t* const shift = data<int64_t>(level.row_exponent) + level.rows.first[node];
        for (int64_t image = 0; image < level.rows.images; ++image) sum[image] += shift[id[image]];
      }
  }

  // From the gradients of the parent's Z and G to those of a node's weights, Z and G.
  void back(int64_t l, int64_t node, const Tensor& parent_features, const Tensor& parent_gram, const Tensor& of_weights,
            const Tensor& of_features, const Tensor& of_gram, T* of_table, T* of_pixel_gram) const {
    const NodeLevel &level = levels_[l], &above = levels_[l + 1];
    const int64_t states = level.states, mapped = level.mapped, width = level.width, mapped_width = level.mapped_width;
    const int64_t parent = node / 2, sibling = node ^ 1, count = level.rows.count(node);
    static thread_local products::Scratch<T> rows_scratch, gram_scratch, outer_scratch, maps_scratch, table_scratch;
    T* const of_rows = rows_scratch.of(count * mapped_width);
    T* const of_mapped_gram = gram_scratch.of(mapped * mapped_width);
    T* const outer = outer_scratch.of(mapped * width);
    T* const of_maps = maps_scratch.of(mapped * width);
    std::fill_n(of_rows, count * mapped_width, T(0));
    const int32_t *own = above.rows.left_of(parent), *other = above.rows.right_of(parent);
    if (node & 1) std::swap(own, other);
    const int64_t first = above.rows.first[parent];
    const T* const siblings = data<T>(level.mapped_features) + level.rows.first[sibling] * mapped_width;
    const T* given_row = data<T>(parent_features) + first * mapped_width;
    const int64_t* const row_exponent = data<int64_t>(above.row_exponent) + first;
    for (int64_t row = 0; row < above.rows.count(parent); ++row, given_row += mapped_width) {
      const T* const beside = siblings + other[row] * mapped_width;
      T* const sum = of_rows + own[row] * mapped_width;
      const powers::Factor<T> factor(-row_exponent[row]);
      for (int64_t k = 0; k < mapped_width; ++k) sum[k] += given_row[k] * factor * beside[k];
    }
    const T* const given = data<T>(parent_gram) + parent * mapped * mapped_width;
    const T* const beside = data<T>(level.mapped_gram) + sibling * mapped * mapped_width;
    for (int64_t k = 0; k < mapped * mapped_width; ++k) of_mapped_gram[k] = given[k] * beside[k];

    const T* const maps = data<T>(level.maps) + node * mapped * width;
    const T* const features = data<T>(level.features) + level.rows.first[node] * width;
    products::product(of_mapped_gram, mapped_width, int64_t{1}, maps, width, outer, width, mapped, width, mapped, false);
    if (l > 0)
      products::product(maps, int64_t{1}, width, outer, width, data<T>(of_gram) + node * states * width, width, states, width,
                        mapped, false);
    else if (of_pixel_gram != nullptr && !data<bool>(padding_)[node])
      products::product(maps, int64_t{1}, width, outer, width, of_pixel_gram, width, states, width, mapped, true);
    // d(m G m^T): both factors, and G and its gradient are symmetric.
    for (int64_t k = 0; k < mapped * width; ++k) outer[k] *= 2;
    products::product(of_rows, int64_t{1}, mapped_width, features, width, of_maps, width, mapped, width, count, false);
    if (is_identity(l, node))
      for (int64_t k = 0; k < mapped * width; ++k) of_maps[k] += outer[k];
    else
      products::product(outer, width, int64_t{1}, gram_of(l, node), width, of_maps, width, mapped, width, states, true);
    if (l > 0) {
      products::product(of_rows, mapped_width, int64_t{1}, maps, width, data<T>(of_features) + level.rows.first[node] * width,
                        width, count, width, mapped, false);
    } else if (of_table != nullptr && !data<bool>(padding_)[node]) {
      T* const of_pixels = table_scratch.of(count * width);
      products::product(of_rows, mapped_width, int64_t{1}, maps, width, of_pixels, width, count, width, mapped, false);
      for (int64_t row = 0; row < count; ++row)
        for (int64_t k = 0; k < states; ++k)
          of_table[level.rows.left_of(node)[row] * width + k] += of_pixels[row * width + k];
    }
    const int64_t* const exponent = data<int64_t>(level.exponent) + node * states;
    const int64_t* const mapped_exponent = data<int64_t>(level.mapped_exponent) + node * mapped;
    T* const result = data<T>(of_weights) + node * mapped * states;
    using Bits = typename powers::Format<T>::Bits;
    static thread_local products::Scratch<Bits> exponents;
    Bits* const own_exponent = exponents.of(states);
    std::copy_n(exponent, states, own_exponent);
    for (int64_t i = 0; i < mapped; ++i) {
      const Bits of_row = mapped_exponent[i];
      for (int64_t k = 0; k < states; ++k)
        result[i * states + k] = of_maps[i * width + k] * powers::Factor<T>(own_exponent[k] - of_row);
    }
  }

  const Tensor table_, padding_;
  const Tensors weights_;
  const bool orthonormal_;
  std::vector<NodeLevel> levels_;
};

}  // namespace qcnn
