// Products of small matrices with many rows, in a level's two forms: rows times a fixed matrix, and sums of outer products.
//
// On processors with matrix units (Intel's AMX) a float32 product may be three bfloat16 products, summed in float32: numbers
// are split, x = high + low, and low * low, a part of 2^-18, is left out. PyTorch calls this float32 matmul precision "high".
// Elsewhere, and in float64, products have the precision of their type.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "matrix_units.h"

namespace products {

constexpr int64_t kBlockRows = 64;   // rows at a time that fit into the first-level cache
constexpr int64_t kOuterRows = 256;  // outer products summed at a time

template <class T, int64_t Bytes>
using Lanes __attribute__((vector_size(Bytes), may_alias)) = T;

#ifdef __AVX512F__
constexpr int64_t kWidestBytes = 64;
#else
constexpr int64_t kWidestBytes = 32;  // AVX2; compilers split it where registers are narrower
#endif
constexpr int64_t kNarrowBytes = 32;

// Rows are padded to one narrow vector if that is enough, else to whole wide ones.
template <class T>
int64_t padded_to_lanes(int64_t columns) {
  const int64_t narrow = kNarrowBytes / sizeof(T), wide = kWidestBytes / sizeof(T);
  return columns <= narrow ? narrow : (columns + wide - 1) / wide * wide;
}

// Reusable memory, aligned to cache lines and not cleared; it only grows.
template <class T>
class Scratch {
 public:
  Scratch() = default;
  Scratch(Scratch&& other) noexcept : size_(std::exchange(other.size_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() { ::operator delete(data_, kAlignment); }
  T* of(int64_t size) {
    if (size > size_) {
      ::operator delete(data_, kAlignment);
      data_ = static_cast<T*>(::operator new(size * sizeof(T), kAlignment));
      size_ = size;
    }
    return data_;
  }
  const T* data() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  int64_t size_ = 0;
  T* data_ = nullptr;
};

// Keep these lanes in a register. Otherwise GCC reloads a row of b for every row of a, and loads limit the speed to two
// thirds.
template <class Vector>
void keep_in_register([[maybe_unused]] Vector& lanes) {
#if defined(__AVX512F__)
  asm("" : "+v"(lanes));
#elif defined(__AVX__)
  asm("" : "+x"(lanes));
#endif
}

// c (+)= a b for R rows and V vectors of columns; element (i, k) of a is a[i * a_row + k * a_column].
template <class T, int64_t Bytes, int R, int V>
void tile(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t depth,
          bool accumulate) {
  using Vector = Lanes<T, Bytes>;
  Vector sum[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = accumulate ? reinterpret_cast<Vector*>(c + i * c_row)[v] : Vector{};
  for (int64_t k = 0; k < depth; ++k) {
    Vector row[V];
    for (int v = 0; v < V; ++v) {
      row[v] = reinterpret_cast<const Vector*>(b + k * b_row)[v];
      keep_in_register(row[v]);
    }
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] += a[i * a_row + k * a_column] * row[v];
  }
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) reinterpret_cast<Vector*>(c + i * c_row)[v] = sum[i][v];
}

template <class T, int64_t Bytes, int R, int V>
void panel(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows,
           int64_t depth, bool accumulate) {
  int64_t i = 0;
  for (; i + R <= rows; i += R)
    tile<T, Bytes, R, V>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, depth, accumulate);
  if constexpr (R > 1)
    if (i < rows)
      panel<T, Bytes, R / 2, V>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, rows - i, depth,
                                accumulate);
}

// c (+)= a b, with b and c padded to whole vectors: panels of up to three vectors, whose twelve sums fill the registers.
template <class T, int64_t Bytes>
void product_of(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row,
                int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
  constexpr int64_t width = Bytes / sizeof(T);
  for (int64_t left = columns / width; left > 0;) {
    const int64_t vectors = left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3;
    const auto multiply = vectors == 1   ? panel<T, Bytes, 12, 1>
                          : vectors == 2 ? panel<T, Bytes, 6, 2>
                                         : panel<T, Bytes, 4, 3>;
    multiply(a, a_row, a_column, b, b_row, c, c_row, rows, depth, accumulate);
    left -= vectors, b += vectors * width, c += vectors * width;
  }
}

template <class T>
void product(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows,
             int64_t columns, int64_t depth, bool accumulate) {
  const auto multiply = columns * sizeof(T) % kWidestBytes == 0 ? product_of<T, kWidestBytes> : product_of<T, kNarrowBytes>;
  multiply(a, a_row, a_column, b, b_row, c, c_row, rows, columns, depth, accumulate);
}

// Whether the matrix units take float32 products with so many padded columns.
template <class T>
bool by_matrix_units(bool allowed, int64_t columns) {
  return sizeof(T) == sizeof(float) && allowed && columns % 16 == 0 && has_matrix_units();
}

enum class Layout { kRows, kColumns };

// A matrix b, (depth, columns), to be multiplied by many rows. Columns are padded by `padded_to_lanes`.
template <class T>
class RightFactor {
 public:
  // matrix: kRows, `columns` numbers a row, and must outlive this; or kColumns, `stride` >= depth numbers a column, zeros
  // after depth.
  RightFactor(const T* matrix, Layout layout, int64_t depth, int64_t columns, int64_t stride, bool bfloat16_products)
      : matrix_(matrix), depth_(depth), columns_(columns), split_(by_matrix_units<T>(bfloat16_products, columns)) {
#ifdef QCNN_MATRIX_UNITS
    if constexpr (sizeof(T) == sizeof(float)) {
      if (split_) {
        uint16_t* pair = pairs_.of(tiles_over(depth, kTileDepth) * columns / kTile * kPair);
        for (int64_t k = 0; k < depth; k += kTileDepth)
          for (int64_t column = 0; column < columns; column += kTile, pair += kPair) {
            Split parts[kTile];
            if (layout == Layout::kRows) {
              split_row_pairs(matrix + k * columns + column, columns, depth - k, kTile, parts);
            } else {
              for (int64_t i = 0; i < kTile; ++i) {
                const float* numbers = matrix + (column + i) * stride + k;
                parts[i] = split(load(numbers, stride - k), load(numbers + kTile, stride - k - kTile));
              }
              transpose(parts);
            }
            store_pair(parts, pair);
          }
        return;
      }
    }
#endif
    if (layout == Layout::kRows) return;
    T* const rows = rows_.of(depth * columns);
    for (int64_t first = 0; first < columns; first += kStrip)
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t i = first; i < std::min(first + kStrip, columns); ++i) rows[k * columns + i] = matrix[i * stride + k];
    matrix_ = rows;
  }

  // c = a b; a has `depth` columns.
  void multiply(const T* a, int64_t a_row, T* c, int64_t c_row, int64_t rows) const {
#ifdef QCNN_MATRIX_UNITS
    if constexpr (sizeof(T) == sizeof(float)) {
      if (split_) {
        multiply_split(a, a_row, c, c_row, rows);
        return;
      }
    }
#endif
    product(a, a_row, int64_t{1}, matrix_, columns_, c, c_row, rows, columns_, depth_, false);
  }

 private:
#ifdef QCNN_MATRIX_UNITS
  void multiply_split(const float* a, int64_t a_row, float* c, int64_t c_row, int64_t rows) const {
    const int64_t depth_tiles = tiles_over(depth_, kTileDepth), column_tiles = columns_ / kTile;
    static thread_local Scratch<uint16_t> scratch;
    uint16_t* const left = scratch.of(2 * depth_tiles * kPair);
    const MatrixUnits in_use;
    for (int64_t i = 0; i < rows; i += 2 * kTile) {
      const int64_t valid = std::min(rows - i, 2 * kTile), below = std::max(valid - kTile, int64_t{0});
      split_rows(a + i * a_row, a_row, valid - below, depth_, left);
      split_rows(a + (i + kTile) * a_row, a_row, below, depth_, left + depth_tiles * kPair);
      for (int64_t column = 0; column < column_tiles; column += 2)
        tile_multiplier(below > 0, column + 1 < column_tiles)(
            left, depth_tiles * kPair, pairs_.data() + column * kPair, kPair, kPair, column_tiles * kPair,
            depth_tiles, c + i * c_row + column * kTile, c_row, valid, false);
    }
  }
#endif

  static constexpr int64_t kStrip = 16;  // columns transposed together
  const T* matrix_;
  int64_t depth_, columns_;
  bool split_;
  Scratch<uint16_t> pairs_;
  Scratch<T> rows_;
};

// c (+)= a^T b. Columns of a and b, and rows and columns of c, are padded by `padded_to_lanes`; rows of c after `outputs`
// are meaningless.
template <class T>
void outer_products(const T* a, int64_t a_columns, int64_t outputs, const T* b, int64_t b_columns, T* c,
                        int64_t rows, bool accumulate, bool bfloat16_products) {
#ifdef QCNN_MATRIX_UNITS
  if constexpr (sizeof(T) == sizeof(float)) {
    if (by_matrix_units<T>(bfloat16_products, a_columns) && b_columns % kTile == 0) {
      const int64_t depth_tiles = tiles_over(rows, kTileDepth), a_tiles = a_columns / kTile, b_tiles = b_columns / kTile;
      static thread_local Scratch<uint16_t> left_scratch, right_scratch;
      uint16_t* const left = left_scratch.of(depth_tiles * a_tiles * kPair);
      uint16_t* const right = right_scratch.of(depth_tiles * b_tiles * kPair);
      uint16_t *left_pair = left, *right_pair = right;
      for (int64_t row = 0; row < rows; row += kTileDepth) {
        for (int64_t column = 0; column < a_columns; column += kTile, left_pair += kPair) {
          Split parts[kTile];
          split_row_pairs(a + row * a_columns + column, a_columns, rows - row, kTile, parts);
          transpose(parts);
          store_pair(parts, left_pair);
        }
        for (int64_t column = 0; column < b_columns; column += kTile, right_pair += kPair) {
          Split parts[kTile];
          split_row_pairs(b + row * b_columns + column, b_columns, rows - row, kTile, parts);
          store_pair(parts, right_pair);
        }
      }
      const MatrixUnits in_use;
      for (int64_t i = 0; i < a_tiles; i += 2)
        for (int64_t j = 0; j < b_tiles; j += 2)
          tile_multiplier(i + 1 < a_tiles, j + 1 < b_tiles)(
              left + i * kPair, kPair, right + j * kPair, kPair, a_tiles * kPair, b_tiles * kPair,
              depth_tiles, c + (i * b_columns + j) * kTile, b_columns, 2 * kTile, accumulate);
      return;
    }
  }
#endif
  for (int64_t row = 0; row < rows; row += kBlockRows)
    product(a + row * a_columns, int64_t{1}, a_columns, b + row * b_columns, b_columns, c, b_columns, outputs,
            b_columns, std::min(kBlockRows, rows - row), accumulate || row > 0);
}

}  // namespace products
