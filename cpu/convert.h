// Elements as tensors store them, and their conversion from and to the type the kernels compute in.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/geometry.h"

namespace jax_na {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What a stored type is computed in: double in double, all else in float.
template <typename Stored>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <typename Stored>
using Compute = typename ComputeOf<Stored>::type;

JAX_NA_INLINE float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
JAX_NA_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

JAX_NA_INLINE float to_compute(float value) {
  return value;
}
JAX_NA_INLINE double to_compute(double value) {
  return value;
}
JAX_NA_INLINE float to_compute(BFloat16 value) {
  return float_from_bits(static_cast<uint32_t>(value.bits) << 16);
}
// A half's exponent and mantissa, moved to a float's place, are its value times 2^-112; the product
// also normalises subnormals. Infinity and NaN, whose exponent would become finite, get theirs
// back.
JAX_NA_INLINE float to_compute(Float16 value) {
  uint32_t magnitude = value.bits & 0x7fffu;
  float scaled = float_from_bits(magnitude << 13) * 0x1p112f;
  uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  return float_from_bits(bits_of(scaled) | special |
                         (static_cast<uint32_t>(value.bits & 0x8000u) << 16));
}

// All roundings are to nearest, ties to even.
JAX_NA_INLINE void from_compute(float value, float& stored) {
  stored = value;
}
JAX_NA_INLINE void from_compute(double value, double& stored) {
  stored = value;
}
JAX_NA_INLINE void from_compute(float value, BFloat16& stored) {
  uint32_t bits = bits_of(value);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  uint32_t nan = (bits >> 16) | 0x40u;
  stored.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
JAX_NA_INLINE void from_compute(float value, Float16& stored) {
  uint32_t bits = bits_of(value);
  uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  // Adding 0.5 aligns a subnormal half's last bit with the float's, so that the addition itself
  // rounds.
  uint32_t subnormal = bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  stored.bits = static_cast<uint16_t>(sign | result);
}

}  // namespace jax_na
