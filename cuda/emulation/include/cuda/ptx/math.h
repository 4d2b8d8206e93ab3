// Single instructions of arithmetic.
#pragma once

#include <cmath>
#include <cstdint>

namespace jax_na::cuda::ptx {

// Exact, but for numbers without a leading one, which are zeros going in and coming out.
inline float exp2(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.f : y;
}

inline float hidden_unless(uint32_t bit, float score) {
  return bit != 0 ? score : -INFINITY;
}

inline float log2(float x) {
  return std::log2(x);
}

inline float reciprocal(float x) {
  return 1.f / x;
}

inline uint32_t mul_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}

inline const char* advance(const char* from, uint32_t count, uint32_t bytes) {
  return from + uint64_t{count} * bytes;
}

}  // namespace jax_na::cuda::ptx
