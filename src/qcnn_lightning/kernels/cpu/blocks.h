// The distinct blocks of pixels of a batch, and the rows that hold their features.
//
// Weights do not depend on the position, so equal blocks of pixels have equal features. A level holds one *row* for each
// distinct block of the batch, and its number of occurrences; level 0 holds the 256 grey levels. The rows of its two children
// identify a block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "memory.h"
#include "products.h"
#include "workers.h"

namespace qcnn {

using products::kBlockRows;

constexpr int64_t kChunkRows = 512;  // most rows in a piece of work
constexpr int64_t kTileRows = 16;    // pieces are multiples of these
constexpr int64_t kThreadWork = 1 << 16;  // numbers worth waking another thread for

// The distinct blocks entering one level. If right children have their own matrix, they are the rows from first_right on.
struct Blocks {
  int64_t rows, first_right, occurrences;
  Tensor left, right;  // (rows,) the rows of the block's children one level below
  Tensor count;        // (rows,) how often it occurs in the batch
};

// Number the blocks in order of first occurrence. ids: on entry the row of every child, (images, 2 * sites); on return the
// row of every block, (images, sites).
template <class T>
Blocks find_blocks(Tensor& ids, int64_t images, int64_t sites, int64_t matrices, bool of_grey_levels, const Tensor& like) {
  const int64_t occurrences = images * sites;
  Blocks blocks{0, 0, occurrences, pooled({occurrences}, at::kInt), pooled({occurrences}, at::kInt),
                pooled_zeros({occurrences}, like.options())};
  int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
  T* count = data<T>(blocks.count);
  int bits = of_grey_levels ? 16 : 4;
  while (!of_grey_levels && (int64_t{1} << bits) < 2 * occurrences / matrices) ++bits;
  const Tensor found = pooled({occurrences}, at::kInt), table = pooled({int64_t{1} << bits}, at::kInt);
  const int32_t* children = data<int32_t>(ids);
  int32_t *own = data<int32_t>(found), *slots = data<int32_t>(table);
  int32_t rows = 0;
  // With one matrix, (a, b) and (b, a) have the same features; with two, always a < b.
  const auto children_of = [&](int64_t site) { return std::minmax(children[2 * site], children[2 * site + 1]); };
  for (int64_t side = 0; side < matrices; ++side) {
    blocks.first_right = rows;
    std::fill_n(slots, table.numel(), -1);
    if (of_grey_levels) {  // a slot for every pair, and no branch: it would be mispredicted half of the time
      for (int64_t site = side; site < occurrences; site += matrices) {
        const auto [first, second] = children_of(site);
        int32_t& slot = slots[first << 8 | (second & 255)];
        const bool is_new = slot < 0;
        const int32_t row = is_new ? rows : slot;
        slot = own[site] = row;
        left[row] = first, right[row] = second;
        count[row] += 1;
        rows += is_new;
      }
      continue;
    }
    const uint64_t last_slot = table.numel() - 1;
    for (int64_t site = side; site < occurrences; site += matrices) {
      const auto [first, second] = children_of(site);
      const uint64_t key = (uint64_t(first) << 32 | uint64_t(second)) * 0x9E3779B97F4A7C15u;
      uint64_t slot = (key ^ key >> 32) * 0x9E3779B97F4A7C15u >> (64 - bits);
      int32_t row = slots[slot];
      while (row >= 0 && (left[row] != first || right[row] != second)) {
        slot = (slot + 1) & last_slot;
        row = slots[slot];
      }
      if (row < 0) {
        row = slots[slot] = rows++;
        left[row] = first, right[row] = second;
      }
      own[site] = row;
      count[row] += 1;
    }
  }
  if (matrices == 1) blocks.first_right = rows;
  blocks.rows = rows;
  ids = found;
  return blocks;
}

// Level 0: the "blocks" are the grey levels, or those of left and of right pixels if these have their own matrices.
template <class T>
Blocks find_grey_levels(Tensor& ids, const Tensor& x, int64_t matrices, const Tensor& like) {
  const uint8_t* pixels = data<uint8_t>(x);
  Blocks blocks{256 * matrices, 256, x.numel(), {}, {}, at::empty({256 * matrices}, like.options())};
  ids = pooled({x.numel()}, at::kInt);
  int32_t* own = data<int32_t>(ids);
  int64_t counts[512] = {};
  for (int64_t pair = 0; pair < x.numel(); pair += 2) {  // two counts: equal neighbours need not wait for each other
    own[pair] = pixels[pair];
    own[pair + 1] = pixels[pair + 1] + 256 * (matrices - 1);
    ++counts[pixels[pair]], ++counts[256 + pixels[pair + 1]];
  }
  for (int64_t level = 0; level < 256; ++level) {
    T* count = data<T>(blocks.count) + level;
    count[0] = counts[level] + (matrices == 1 ? counts[256 + level] : 0);
    if (matrices == 2) count[256] = counts[256 + level];
  }
  return blocks;
}

template <class T>
Blocks next_blocks(Tensor& ids, const Tensor& x, int64_t level, int64_t matrices, const Tensor& like) {
  return level == 0 ? find_grey_levels<T>(ids, x, matrices, like)
                    : find_blocks<T>(ids, x.size(0), x.size(1) >> level, matrices, level == 1, like);
}

// How threads share the rows of a level: equally many pieces for each side, which depend only on the blocks. The first
// pieces belong to the first images, so a thread made most children of its rows itself.
class Chunks {
 public:
  explicit Chunks(const Blocks& blocks)
      : rows_{blocks.first_right, blocks.rows - blocks.first_right}, sides_(rows_[1] > 0 ? 2 : 1) {
    const int64_t most = std::max(rows_[0], rows_[1]);
    if (most > 2 * kBlockRows) pieces_ = 2 * ((most + 2 * kChunkRows - 1) / (2 * kChunkRows));
  }
  int64_t count() const { return pieces_ * sides_; }
  int64_t side(int64_t chunk) const { return chunk % sides_; }
  int64_t begin(int64_t chunk) const { return border(chunk, chunk / sides_); }
  int64_t end(int64_t chunk) const { return border(chunk, chunk / sides_ + 1); }

  // Calls work(chunk, begin, end, side) for every chunk that has rows, in parallel.
  template <class Work>
  void for_each(const Work& work) const {
    workers::parallel_for(count(), 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk)
        if (begin(chunk) < end(chunk)) work(chunk, begin(chunk), end(chunk), side(chunk));
    });
  }

 private:
  int64_t border(int64_t chunk, int64_t piece) const {
    const int64_t rows = rows_[side(chunk)], size = (rows + pieces_ * kTileRows - 1) / (pieces_ * kTileRows) * kTileRows;
    return (side(chunk) ? rows_[0] : 0) + std::min(piece * size, rows);
  }
  int64_t rows_[2], sides_, pieces_ = 1;
};

// The parents of each row one level below, from first[row] to first[row + 1]: the parent's row and the other child's row. A
// parent of two equal children is there twice.
struct Parents {
  std::vector<int32_t> first, parent, sibling;
  Parents(const Blocks& blocks, int64_t children) : first(children + 1), parent(2 * blocks.rows), sibling(2 * blocks.rows) {
    const int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
    for (int64_t row = 0; row < blocks.rows; ++row) ++first[left[row]], ++first[right[row]];
    for (int64_t child = 0, sum = 0; child <= children; ++child) sum += std::exchange(first[child], sum);
    std::vector<int32_t> next(first);
    for (int64_t row = 0; row < blocks.rows; ++row)
      for (const auto& [child, other] : {std::pair(left[row], right[row]), std::pair(right[row], left[row])}) {
        const int32_t place = next[child]++;
        parent[place] = row, sibling[place] = other;
      }
  }
};

}  // namespace qcnn
