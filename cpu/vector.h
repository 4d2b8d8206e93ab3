// SIMD vectors of a compute type, by the compilers' vector extension: one spelling for every
// instruction set.
//
// This header is compiled once per instruction set, inside the namespace JAX_NA_ISA that the build
// defines.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__AVX__)
#include <immintrin.h>
#endif

#include "core/geometry.h"

#ifndef JAX_NA_ISA
#error "JAX_NA_ISA names the instruction set that this file is compiled for"
#endif

namespace jax_na::JAX_NA_ISA {

constexpr int kVectorBytes = 32;

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(kVectorBytes)));
  typedef float VecUnaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t Mask __attribute__((vector_size(kVectorBytes)));
  using Int = int32_t;
};

template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(kVectorBytes)));
  typedef double VecUnaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t Mask __attribute__((vector_size(kVectorBytes)));
  using Int = int64_t;
};

template <typename T>
using Vec = typename Simd<T>::Vec;
template <typename T>
using Mask = typename Simd<T>::Mask;
template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T>
JAX_NA_INLINE Vec<T> load(const T* from) {
  return *reinterpret_cast<const typename Simd<T>::VecUnaligned*>(from);
}
template <typename T>
JAX_NA_INLINE void store(T* to, Vec<T> value) {
  *reinterpret_cast<typename Simd<T>::VecUnaligned*>(to) = value;
}
template <typename T>
JAX_NA_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // x - 0 is x, also for -0.0 and NaN
}
// Keeps a loaded vector in a register: compilers repeat the load in every use otherwise, and loads
// are the bottleneck of a register tile.
template <typename T>
JAX_NA_INLINE Vec<T> kept(Vec<T> value) {
#if defined(__x86_64__) && defined(__AVX__)
  asm("" : "+x"(value));
#endif
  return value;
}
template <typename T>
JAX_NA_INLINE Vec<T> select(Mask<T> mask, Vec<T> yes, Vec<T> no) {
  return mask ? yes : no;
}
// The larger one; b where either is NaN.
template <typename T>
JAX_NA_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) {
#if defined(__x86_64__) && defined(__AVX__)
  // One instruction, for which compilers write a comparison and a choice.
  if constexpr (sizeof(T) == 4) {
    return _mm256_max_ps(a, b);
  } else {
    return _mm256_max_pd(a, b);
  }
#else
  return a > b ? a : b;
#endif
}

// A vector whose lanes all hold op over the lanes of v, by swapping halves, quarters, ...
template <typename Op>
JAX_NA_INLINE Vec<float> reduce(Vec<float> v, Op op) {
  v = op(v, Vec<float>(__builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)));
  v = op(v, Vec<float>(__builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)));
  return op(v, Vec<float>(__builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6)));
}
template <typename Op>
JAX_NA_INLINE Vec<double> reduce(Vec<double> v, Op op) {
  v = op(v, Vec<double>(__builtin_shufflevector(v, v, 2, 3, 0, 1)));
  return op(v, Vec<double>(__builtin_shufflevector(v, v, 1, 0, 3, 2)));
}
template <typename T>
JAX_NA_INLINE T horizontal_max(Vec<T> v) {
  return reduce(v, [](Vec<T> a, Vec<T> b) { return maximum<T>(a, b); })[0];
}
template <typename T>
JAX_NA_INLINE T horizontal_sum(Vec<T> v) {
  return reduce(v, [](Vec<T> a, Vec<T> b) { return a + b; })[0];
}

// Lanes i with begin <= first + i < end.
template <typename T>
JAX_NA_INLINE Mask<T> lanes_between(int first, int begin, int end) {
  Mask<T> index;
  for (int i = 0; i < kLanes<T>; ++i) index[i] = i;
  using Int = typename Simd<T>::Int;
  return (index >= static_cast<Int>(begin - first)) & (index < static_cast<Int>(end - first));
}

template <typename T>
struct Exp2;

// 2^x = 2^n * 2^f with n = round(x) and |f| <= 1/2; 2^f by the Taylor series of exp(f ln 2), whose
// first dropped term bounds the relative error (float: 5.2e-9, double: 4.1e-18, both far below half
// an ulp).
template <>
struct Exp2<float> {
  static constexpr float kLowest = -127.0f;
  static constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  static constexpr int kMantissaBits = 23;
  static constexpr int kTerms = 7;
};
template <>
struct Exp2<double> {
  static constexpr double kLowest = -1023.0;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissaBits = 52;
  static constexpr int kTerms = 13;
};

// x must not exceed 127 (float) or 1023 (double); -inf gives 0 and NaN gives NaN. At kLowest the
// exponent's bits reach zero while f is 0, so that the bits are those of 0, which everything below
// gives too; 2^x of the one binade above is subnormal and not exact.
template <typename T>
JAX_NA_INLINE Vec<T> exp2(Vec<T> x) {
  using Constants = Exp2<T>;
  Vec<T> clamped = maximum<T>(broadcast<T>(Constants::kLowest), x);  // in this order: x if NaN
  Vec<T> shifted = clamped + Constants::kRound;
  Vec<T> fraction = clamped - (shifted - Constants::kRound);
  // ln(2)^k / k!, highest power first
  constexpr double kLn2 = 0.6931471805599453094;
  double coefficient[Constants::kTerms + 1] = {1.0};
  for (int k = 1; k <= Constants::kTerms; ++k) coefficient[k] = coefficient[k - 1] * kLn2 / k;
  Vec<T> result = broadcast<T>(static_cast<T>(coefficient[Constants::kTerms]));
#pragma GCC unroll 16
  for (int k = Constants::kTerms - 1; k >= 0; --k)
    result = result * fraction + static_cast<T>(coefficient[k]);
  return Vec<T>(Mask<T>(result) + (Mask<T>(shifted) << Constants::kMantissaBits));  // of the bits
}

}  // namespace jax_na::JAX_NA_ISA
