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

constexpr int32_t kNone = -(1 << 29);  // the exponent of 0; others are far above

// 2^exponent, for exponents of normal numbers.
template <class T>
inline T power(typename Format<T>::Bits exponent) {
  const auto bits = (exponent + Format<T>::kBias) << Format<T>::kMantissa;
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}

// 2^exponent as two factors: it may be out of range when a product with it is not.
template <class T>
struct Factor {
  T first, second;
  explicit Factor(typename Format<T>::Bits exponent) {
    using Bits = typename Format<T>::Bits;
    constexpr Bits largest = 2 * (Format<T>::kBias - 1);
    const Bits clamped = std::min(std::max(exponent, -largest), largest), half = clamped >> 1;
    first = power<T>(half), second = power<T>(clamped - half);
  }
};

template <class T>
inline T operator*(T x, const Factor<T>& factor) {
  return x * factor.first * factor.second;
}

// e with |x| = m 2^e, 1/2 <= m < 1; numbers below the smallest normal one count as of its size; kNone for 0.
template <class T>
inline typename Format<T>::Bits exponent_of(T x) {
  using Bits = typename Format<T>::Bits;
  Bits bits;
  std::memcpy(&bits, &x, sizeof(T));
  constexpr Bits mask = (Bits{1} << (sizeof(T) * 8 - 1 - Format<T>::kMantissa)) - 1;
  const Bits field = bits >> Format<T>::kMantissa & mask;
  return x == 0 ? Bits(kNone) : field - (Format<T>::kBias - 1);
}

}  // namespace powers
