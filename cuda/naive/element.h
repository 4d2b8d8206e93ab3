// Element types: what tensors hold, and what is computed in.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "cuda/tile/element.h"

namespace jax_na::cuda::naive {

// Sums are of double for float64, of float for everything else.
template <typename T>
using RealOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
__device__ __forceinline__ RealOf<T> to_real(T x) {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return to_float(x);
}

__device__ __forceinline__ float exp2_of(float x) {
  return exp2f(x);
}
__device__ __forceinline__ double exp2_of(double x) {
  return exp2(x);
}
__device__ __forceinline__ float log2_of(float x) {
  return log2f(x);
}
__device__ __forceinline__ double log2_of(double x) {
  return log2(x);
}
template <typename R>
__device__ __forceinline__ R larger(R a, R b) {
  return a > b ? a : b;
}

template <typename R>
constexpr R kInfinity = std::numeric_limits<R>::infinity();

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.6931471805599453094;

}  // namespace jax_na::cuda::naive
