// The distinct blocks of pixels of a batch at every node of a tree whose nodes have matrices of their own.
//
// At one node, equal blocks of pixels have equal features: a node holds one *row* for each distinct block that the batch has
// there. A block of 4 binary pixels has at most 16 rows, and many blocks of images are empty in most of a batch. The rows of its
// two children identify a block.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "memory.h"
#include "workers.h"

namespace qcnn {

constexpr int64_t kNodesAtATime = 16;

// The rows of one level's nodes.
struct NodeRows {
  int64_t nodes, images;
  std::vector<int64_t> first;  // (nodes + 1,) where a node's rows begin
  Tensor left, right;          // (nodes, images) the rows of a row's children, within those nodes; at level 0 the grey level
  Tensor ids;                  // (nodes, images) the row of every image

  NodeRows(int64_t number, int64_t of_images)
      : nodes(number),
        images(of_images),
        first(number + 1),
        left(pooled({number, of_images}, at::kInt)),
        right(pooled({number, of_images}, at::kInt)),
        ids(pooled({number, of_images}, at::kInt)) {}

  int64_t count(int64_t node) const { return first[node + 1] - first[node]; }
  int64_t total() const { return first.back(); }
  const int32_t* left_of(int64_t node) const { return data<int32_t>(left) + node * images; }
  const int32_t* right_of(int64_t node) const { return data<int32_t>(right) + node * images; }

  void sum_counts() {
    for (int64_t node = 0; node < nodes; ++node) first[node + 1] += first[node];
  }
};

// Rows for pairs of numbers, in order of first occurrence.
class Pairs {
 public:
  // keys: pairs are numbered below this; most: how many different ones there may be.
  void start(int64_t keys, int64_t most) {
    direct_ = keys <= kDirect;
    size_t size = 16;
    while (!direct_ && size < size_t(2 * most)) size *= 2;
    mask_ = size - 1;
    rows_.assign(direct_ ? size_t(keys) : size, -1);
    if (!direct_) keys_.resize(size);
  }

  // The row of a pair; `next` if it is new.
  int32_t row_of(int64_t key, int32_t next) {
    if (direct_) {
      if (rows_[key] < 0) rows_[key] = next;
      return rows_[key];
    }
    size_t slot = (uint64_t(key) * 0x9E3779B97F4A7C15u) >> 32 & mask_;
    while (rows_[slot] >= 0 && keys_[slot] != key) slot = (slot + 1) & mask_;
    if (rows_[slot] < 0) rows_[slot] = next, keys_[slot] = key;
    return rows_[slot];
  }

 private:
  static constexpr int64_t kDirect = 4096;
  bool direct_ = true;
  size_t mask_ = 0;
  std::vector<int32_t> rows_;
  std::vector<int64_t> keys_;
};

// The rows of pixels: their distinct grey levels. x: (images, sites).
inline NodeRows rows_of_pixels(const Tensor& x, const bool* padding) {
  const int64_t images = x.size(0), sites = x.size(1);
  NodeRows rows(sites, images);
  const uint8_t* grey = data<uint8_t>(x);
  workers::parallel_for(sites, kNodesAtATime, [&](int64_t begin, int64_t end) {
    for (int64_t site = begin; site < end; ++site) {
      int32_t row_of[256];
      std::fill_n(row_of, 256, -1);
      int32_t *level = data<int32_t>(rows.left) + site * images, *id = data<int32_t>(rows.ids) + site * images, count = 0;
      for (int64_t image = 0; image < images; ++image) {
        const uint8_t value = padding[site] ? 0 : grey[image * sites + site];
        if (row_of[value] < 0) level[count] = value, row_of[value] = count++;
        id[image] = row_of[value];
      }
      rows.first[site + 1] = count;
    }
  });
  rows.sum_counts();
  return rows;
}

// The rows of blocks whose halves have the rows `below`.
inline NodeRows rows_of_blocks(const NodeRows& below) {
  const int64_t images = below.images;
  NodeRows rows(below.nodes / 2, images);
  workers::parallel_for(rows.nodes, kNodesAtATime, [&](int64_t begin, int64_t end) {
    Pairs pairs;
    for (int64_t node = begin; node < end; ++node) {
      const int64_t right_count = below.count(2 * node + 1), keys = below.count(2 * node) * right_count;
      int32_t *left = data<int32_t>(rows.left) + node * images, *right = data<int32_t>(rows.right) + node * images;
      int32_t *id = data<int32_t>(rows.ids) + node * images, count = 0;
      const int32_t *of_left = data<int32_t>(below.ids) + 2 * node * images, *of_right = of_left + images;
      if (keys == 1) {
        std::fill_n(id, images, 0);
        left[0] = right[0] = 0, count = 1;
      } else {
        pairs.start(keys, std::min(keys, images));
        for (int64_t image = 0; image < images; ++image) {
          const int32_t row = id[image] = pairs.row_of(of_left[image] * right_count + of_right[image], count);
          if (row == count) left[count] = of_left[image], right[count] = of_right[image], ++count;
        }
      }
      rows.first[node + 1] = count;
    }
  });
  rows.sum_counts();
  return rows;
}

}  // namespace qcnn
