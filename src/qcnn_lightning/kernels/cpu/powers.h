// Powers of two as vectors of integers: exact, and fast enough for every number of a matrix (theory.md, eq. P1).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace powers {

template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23, kBias = 127;
};
template <>
struct Format<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
};

constexpr int64_t kNone = -(int64_t{1} << 40);  // the exponent of 0

// 2^exponent, for exponents of normal numbers.
template <class T>
inline T power(typename Format<T>::Bits exponent) {
  const auto bits = (exponent + Format<T>::kBias) << Format<T>::kMantissa;
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}

// x 2^exponent in two halves: 2^exponent may be out of range when the product is not.
template <class T>
inline T times(T x, int64_t exponent) {
  using Bits = typename Format<T>::Bits;
  constexpr int64_t largest = 2 * (Format<T>::kBias - 1);
  const Bits clamped = static_cast<Bits>(std::min(std::max(exponent, -largest), largest)), half = clamped >> 1;
  return x * power<T>(half) * power<T>(clamped - half);
}

// e with |x| = m 2^e, 1/2 <= m < 1; numbers below the smallest normal one count as of its size; kNone for 0.
template <class T>
inline int64_t exponent_of(T x) {
  typename Format<T>::Bits bits;
  std::memcpy(&bits, &x, sizeof(T));
  constexpr auto mask = (typename Format<T>::Bits{1} << (sizeof(T) * 8 - 1 - Format<T>::kMantissa)) - 1;
  const auto field = bits >> Format<T>::kMantissa & mask;
  return x == 0 ? kNone : int64_t(field) - Format<T>::kBias + 1;
}

}  // namespace powers
