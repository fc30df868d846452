// Matrix products of small matrices with many rows, in the two forms that a level needs: rows times a fixed matrix, and
// the sum over rows of outer products.
//
// On processors with matrix units (Intel's AMX) a float32 product may be taken as three of bfloat16, summed in float32:
// every number is split in two, x = high + low, and only low * low, a part of 2^-18, is left out. That is what PyTorch
// calls float32 matmul precision "high". Elsewhere, and in float64, products are what the type says.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define QCNN_MATRIX_UNITS
#endif

namespace products {

constexpr int64_t kBlockRows = 64;   // rows worked on at a time, so that they stay in the first-level cache
constexpr int64_t kOuterRows = 256;  // rows whose outer products are added up at a time

template <class T, int64_t Bytes>
using Lanes __attribute__((vector_size(Bytes), may_alias)) = T;

#ifdef __AVX512F__
constexpr int64_t kWidestBytes = 64;
#else
constexpr int64_t kWidestBytes = 32;  // AVX2; compilers split it where registers are narrower
#endif
constexpr int64_t kNarrowBytes = 32;

// Rows are padded to whole narrow vectors if one is enough, to whole wide ones otherwise.
template <class T>
int64_t padded_to_lanes(int64_t columns) {
  const int64_t narrow = kNarrowBytes / sizeof(T), wide = kWidestBytes / sizeof(T);
  return columns <= narrow ? narrow : (columns + wide - 1) / wide * wide;
}

// Memory that is aligned to cache lines and not cleared. It only grows, so that whoever keeps it uses it again.
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

// Let these lanes stay in a register. Left to itself, GCC reads a row of b from memory again for every row of a, and the
// loads, not the products, set the pace: two thirds of the speed.
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

// c (+)= a b, with b and c padded to whole vectors: panels of up to three vectors, of which twelve sums fill registers.
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

#ifdef QCNN_MATRIX_UNITS

constexpr int64_t kTile = 16;              // rows of a tile; columns of one of float32
constexpr int64_t kTileDepth = 32;         // columns of a tile of bfloat16
constexpr int64_t kTileSize = kTile * kTileDepth;
constexpr int64_t kPair = 2 * kTileSize;   // a tile of high parts, then one of low parts

inline int64_t tiles_over(int64_t size, int64_t step) { return (size + step - 1) / step; }

// Whether the processor has matrix units and the system lets this process use them.
inline bool has_matrix_units() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
}

// A thread's matrix units, in use for as long as this lives.
class MatrixUnits {
 public:
  MatrixUnits() {
    alignas(64) uint8_t configuration[64] = {1};  // palette 1; from byte 16 on bytes a row, from 48 on rows
    for (int tile = 0; tile < 8; ++tile) configuration[16 + 2 * tile] = 64, configuration[48 + tile] = kTile;
    _tile_loadconfig(configuration);
  }
  ~MatrixUnits() { _tile_release(); }
  MatrixUnits(const MatrixUnits&) = delete;
};

struct Split {
  __m512i high, low;
};

// 32 numbers as bfloat16: those of a, then those of b.
inline Split split(__m512 a, __m512 b) {
  const __m512i high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
  const auto widened = [](__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  };
  const __m512 rest_a = _mm512_sub_ps(a, widened(_mm512_castsi512_si256(high)));
  const __m512 rest_b = _mm512_sub_ps(b, widened(_mm512_extracti64x4_epi64(high, 1)));
  return {high, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(rest_b, rest_a))};
}

inline __m512 load(const float* numbers, int64_t valid) {
  if (valid >= kTile) return _mm512_loadu_ps(numbers);
  return _mm512_maskz_loadu_ps(valid > 0 ? (1u << valid) - 1 : 0, numbers);
}

// Up to 16 rows as left factors: one pair of tiles for every 32 columns.
inline void split_rows(const float* a, int64_t a_row, int64_t rows, int64_t columns, uint16_t* pairs) {
  for (int64_t k = 0; k < columns; k += kTileDepth, pairs += kPair)
    for (int64_t i = 0; i < rows; ++i) {
      const float* numbers = a + i * a_row + k;
      const Split parts = split(load(numbers, columns - k), load(numbers + kTile, columns - k - kTile));
      _mm512_store_si512(pairs + i * kTileDepth, parts.high);
      _mm512_store_si512(pairs + kTileSize + i * kTileDepth, parts.low);
    }
}

// 32 rows and 16 columns as a right factor: row r of the tile has the numbers of rows 2r and 2r + 1 by turns.
inline void split_row_pairs(const float* b, int64_t b_row, int64_t rows, int64_t columns, Split parts[kTile]) {
  alignas(64) static constexpr uint16_t kByTurns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i by_turns = _mm512_load_si512(kByTurns);
  for (int64_t r = 0; r < kTile; ++r) {
    const __m512 even = load(b + 2 * r * b_row, 2 * r < rows ? columns : 0);
    const __m512 odd = load(b + (2 * r + 1) * b_row, 2 * r + 1 < rows ? columns : 0);
    const Split both = split(even, odd);
    parts[r] = {_mm512_permutexvar_epi16(by_turns, both.high), _mm512_permutexvar_epi16(by_turns, both.low)};
  }
}

inline void store_pair(const Split parts[kTile], uint16_t* pair) {
  for (int64_t r = 0; r < kTile; ++r) {
    _mm512_store_si512(pair + r * kTileDepth, parts[r].high);
    _mm512_store_si512(pair + kTileSize + r * kTileDepth, parts[r].low);
  }
}

// Of 32-bit pairs.
inline void transpose(__m512i rows[kTile]) {
  __m512i t[kTile];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; ++j) {
      t[i + j] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0x88);
      t[i + j + 4] = _mm512_shuffle_i32x4(rows[i + j], rows[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; ++j) {
    rows[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
    rows[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
  }
}

// Turns a left factor's tiles into a right factor's, and back.
inline void transpose(Split parts[kTile]) {
  __m512i high[kTile], low[kTile];
  for (int r = 0; r < kTile; ++r) high[r] = parts[r].high, low[r] = parts[r].low;
  transpose(high), transpose(low);
  for (int r = 0; r < kTile; ++r) parts[r] = {high[r], low[r]};
}

// Up to R x C tiles of c (+)= a b; the pairs of a's and of b's tiles are `a_next`, `b_next` apart for the next tile, and
// one after the other (a) or `b_depth` apart (b) for the next 32 of the depth.
template <int R, int C>
void multiply_tiles(const uint16_t* a, int64_t a_next, const uint16_t* b, int64_t b_next, int64_t a_depth,
                    int64_t b_depth, int64_t depth_tiles, float* c, int64_t c_row, int64_t rows, bool accumulate) {
  constexpr int kBytes = 64;
  const int64_t c_bytes = c_row * sizeof(float);
  asm volatile("" ::: "memory");  // the intrinsics do not tell the compiler what they read
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    if constexpr (C == 2) _tile_loadd(1, c + kTile, c_bytes);
    if constexpr (R == 2) _tile_loadd(2, c + kTile * c_row, c_bytes);
    if constexpr (R == 2 && C == 2) _tile_loadd(3, c + kTile * c_row + kTile, c_bytes);
  } else {
    _tile_zero(0);
    if constexpr (C == 2) _tile_zero(1);
    if constexpr (R == 2) _tile_zero(2);
    if constexpr (R == 2 && C == 2) _tile_zero(3);
  }
  const auto load_a = [&](const uint16_t* place) {
    _tile_loadd(4, place, kBytes);
    if constexpr (R == 2) _tile_loadd(5, place + a_next, kBytes);
  };
  const auto load_b = [&](const uint16_t* place) {
    _tile_loadd(6, place, kBytes);
    if constexpr (C == 2) _tile_loadd(7, place + b_next, kBytes);
  };
  const auto add_products = [] {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (C == 2) _tile_dpbf16ps(1, 4, 7);
    if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (R == 2 && C == 2) _tile_dpbf16ps(3, 5, 7);
  };
  for (int64_t k = 0; k < depth_tiles; ++k, a += a_depth, b += b_depth) {
    load_a(a + kTileSize), load_b(b), add_products();
    load_a(a), add_products();
    load_b(b + kTileSize), add_products();
  }
  const auto rows_of = [&](const float* whole, float* place, int64_t valid) {
    for (int64_t i = 0; i < valid; ++i) std::memcpy(place + i * c_row, whole + i * kTile, kBytes);
  };
  alignas(64) float whole[kTile * kTile];
// The intrinsics want the number of the tile to the letter.
#define QCNN_STORE_TILE(number, place, valid)    \
  if ((valid) >= kTile) {                        \
    _tile_stored(number, place, c_bytes);        \
  } else {                                       \
    _tile_stored(number, whole, kBytes);         \
    rows_of(whole, place, valid);                \
  }
  QCNN_STORE_TILE(0, c, rows)
  if constexpr (C == 2) { QCNN_STORE_TILE(1, c + kTile, rows) }
  if constexpr (R == 2) { QCNN_STORE_TILE(2, c + kTile * c_row, rows - kTile) }
  if constexpr (R == 2 && C == 2) { QCNN_STORE_TILE(3, c + kTile * c_row + kTile, rows - kTile) }
#undef QCNN_STORE_TILE
}

inline auto tile_multiplier(bool two_rows, bool two_columns) {
  return two_rows ? (two_columns ? multiply_tiles<2, 2> : multiply_tiles<2, 1>)
                  : (two_columns ? multiply_tiles<1, 2> : multiply_tiles<1, 1>);
}

#else

inline bool has_matrix_units() { return false; }

#endif

// Whether float32 products with so many padded columns are taken by the matrix units.
template <class T>
bool by_matrix_units(bool allowed, int64_t columns) {
  return sizeof(T) == sizeof(float) && allowed && columns % 16 == 0 && has_matrix_units();
}

enum class Layout { kRows, kColumns };

// A matrix b, (depth, columns), that many rows are multiplied by. Columns are padded as `padded_to_lanes`.
template <class T>
class RightFactor {
 public:
  // matrix: row after row, `columns` each, and kept in use; or column after column, `stride` >= depth each, zeros behind.
  RightFactor(const T* matrix, Layout layout, int64_t depth, int64_t columns, int64_t stride, bool may_split)
      : matrix_(matrix), depth_(depth), columns_(columns), split_(by_matrix_units<T>(may_split, columns)) {
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

  static constexpr int64_t kStrip = 16;  // columns that are turned into rows together
  const T* matrix_;
  int64_t depth_, columns_;
  bool split_;
  Scratch<uint16_t> pairs_;
  Scratch<T> rows_;
};

// c (+)= a^T b. Columns of a and b are padded as `padded_to_lanes`, and so are rows and columns of c; rows of c past the
// first `outputs` do not count.
template <class T>
void outer_products(const T* a, int64_t a_columns, int64_t outputs, const T* b, int64_t b_columns, T* c,
                        int64_t rows, bool accumulate, bool may_split) {
#ifdef QCNN_MATRIX_UNITS
  if constexpr (sizeof(T) == sizeof(float)) {
    if (by_matrix_units<T>(may_split, a_columns) && b_columns % kTile == 0) {
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
