// mma.sync: products of 16-row fragments on the tensor cores, accumulated in float32. Fragments are
// laid out as cuda/ptx/mma.h of the real wrappers says.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "cuda/emulation/block.h"

namespace jax_na::cuda::ptx {

// The element that a word holds: one of two, or the one.
template <typename T>
inline float element_of(uint32_t word, int which) {
  T element;
  element.bits = static_cast<uint16_t>(word >> 16 * which);
  return element;
}
template <>
inline float element_of<float>(uint32_t word, int) {
  word &= 0xffffe000u;  // the 19 bits of TF32
  float element;
  std::memcpy(&element, &word, sizeof element);
  return element;
}

struct Multiplied {
  float* d;           // 4
  const uint32_t* a;  // 4
  uint32_t b[2];
  const float* c;  // 4
};

// Products are exact in double, and so is nearly their sum; hardware keeps fewer bits of it.
template <typename T>
void multiply_fragments(emulation::Operands operands) {
  constexpr int kPerWord = 4 / sizeof(T);
  constexpr int kDepth = 8 * kPerWord;
  float a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
    const auto* own = static_cast<const Multiplied*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int e = 0; e < kPerWord; ++e) {
        const int k = (4 * half + t) * kPerWord + e;
        a[g][k] = element_of<T>(own->a[2 * half], e);
        a[g + 8][k] = element_of<T>(own->a[2 * half + 1], e);
        b[k][g] = element_of<T>(own->b[half], e);
      }
    }
  }
  for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
      const auto* own = static_cast<const Multiplied*>(operands[lane]);
      double sum = own->c[i];
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      own->d[i] = static_cast<float>(sum);
    }
  }
}

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
