// Single instructions of arithmetic.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

// 2^x to 2 ulp; exp2(-inf) is 0.
__device__ __forceinline__ float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// `score`, or minus infinity where `bit` is 0. Bits of a word that are tested in order become
// predicates seven at a time, which those of comparisons in C++ do with more instructions.
__device__ __forceinline__ float hidden_unless(uint32_t bit, float score) {
  asm("{\n"
      ".reg .pred seen;\n"
      "setp.ne.u32 seen, %1, 0;\n"
      "@!seen mov.f32 %0, 0fFF800000;\n"
      "}\n"
      : "+f"(score)
      : "r"(bit));
  return score;
}

// log2(x), to 2^-21 between 1/2 and 2, to 3 ulp elsewhere; -inf of 0.
__device__ __forceinline__ float log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x to 1 ulp.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The upper 32 bits of a product.
__device__ __forceinline__ uint32_t mul_high(uint32_t a, uint32_t b) {
  return __umulhi(a, b);
}

// `from` and `count` times `bytes` more.
__device__ __forceinline__ const char* advance(const char* from, uint32_t count, uint32_t bytes) {
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(count), "r"(bytes));
  return from + product;
}

}  // namespace jax_na::cuda::ptx
