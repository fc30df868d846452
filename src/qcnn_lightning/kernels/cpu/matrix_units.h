// The processor's matrix units (Intel's AMX): float32 products as three bfloat16 ones, tile by tile.
#pragma once

#include <cstdint>

#if defined(__linux__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define QCNN_MATRIX_UNITS
#endif

namespace products {

#ifdef QCNN_MATRIX_UNITS

constexpr int64_t kTile = 16;              // rows of a tile, and columns of a float32 tile
constexpr int64_t kTileDepth = 32;         // columns of a bfloat16 tile
constexpr int64_t kTileSize = kTile * kTileDepth;
constexpr int64_t kPair = 2 * kTileSize;   // a tile of high parts, then a tile of low parts

inline int64_t tiles_over(int64_t size, int64_t step) { return (size + step - 1) / step; }

// Whether the processor has matrix units and the system permits them.
inline bool has_matrix_units() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
}

// A thread's matrix units, in use while this lives.
class MatrixUnits {
 public:
  MatrixUnits() {
    alignas(64) uint8_t configuration[64] = {1};  // palette 1; from byte 16 bytes per row, from byte 48 rows
    for (int tile = 0; tile < 8; ++tile) configuration[16 + 2 * tile] = 64, configuration[48 + tile] = kTile;
    _tile_loadconfig(configuration);
  }
  ~MatrixUnits() { _tile_release(); }
  MatrixUnits(const MatrixUnits&) = delete;
};

struct Split {
  __m512i high, low;
};

// 32 numbers as bfloat16: a, then b.
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

// Up to 16 rows as left factors: a pair of tiles for every 32 columns.
inline void split_rows(const float* a, int64_t a_row, int64_t rows, int64_t columns, uint16_t* pairs) {
  for (int64_t k = 0; k < columns; k += kTileDepth, pairs += kPair)
    for (int64_t i = 0; i < rows; ++i) {
      const float* numbers = a + i * a_row + k;
      const Split parts = split(load(numbers, columns - k), load(numbers + kTile, columns - k - kTile));
      _mm512_store_si512(pairs + i * kTileDepth, parts.high);
      _mm512_store_si512(pairs + kTileSize + i * kTileDepth, parts.low);
    }
}

// 32 rows and 16 columns as a right factor: row r of the tile alternates the numbers of rows 2r and 2r + 1.
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

// Transposes 32-bit pairs.
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

// c (+)= a b for up to R x C tiles. The next pair of tiles is `a_next` or `b_next` away for the next rows or columns, and
// `a_depth` or `b_depth` away for the next 32 of the depth.
template <int R, int C>
void multiply_tiles(const uint16_t* a, int64_t a_next, const uint16_t* b, int64_t b_next, int64_t a_depth,
                    int64_t b_depth, int64_t depth_tiles, float* c, int64_t c_row, int64_t rows, bool accumulate) {
  constexpr int kBytes = 64;
  const int64_t c_bytes = c_row * sizeof(float);
  asm volatile("" ::: "memory");  // the compiler does not know what the intrinsics read
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
// The intrinsics need a literal tile number.
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

}  // namespace products
