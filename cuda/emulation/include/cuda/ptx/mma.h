// mma.sync: products of 16-row fragments on the tensor cores, accumulated in float32. Fragments are
// laid out as cuda/ptx/mma.h of the real wrappers says.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "cuda/emulation/block.h"

namespace jax_na::cuda::ptx {

struct Multiplied {
  float* d;           // 4
  const uint32_t* a;  // 4
  uint32_t b[2];
  const float* c;  // 4
};

// The product of the fragments of a warp's lanes.
template <typename T>
void multiply_fragments(emulation::Operands operands);

inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                const float (&c)[4], __nv_bfloat16) {
  Multiplied own{d, a, {b0, b1}, c};
  emulation::meet_whole_warp("mma.bf16", &own, multiply_fragments<__nv_bfloat16>);
}

inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                const float (&c)[4], __half) {
  Multiplied own{d, a, {b0, b1}, c};
  emulation::meet_whole_warp("mma.f16", &own, multiply_fragments<__half>);
}

inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                const float (&c)[4], float) {
  Multiplied own{d, a, {b0, b1}, c};
  emulation::meet_whole_warp("mma.tf32", &own, multiply_fragments<float>);
}

// The nearest TF32 number, ties away from zero.
inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;
  return bits & 0xffffe000u;
}

}  // namespace jax_na::cuda::ptx
