// The element types of the fused kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace jax_na::cuda {

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}

// Two neighbouring elements as one word, the first in the lower half.
__device__ __forceinline__ uint32_t pack(float low, float high, __nv_bfloat16) {
  __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&both);
}
__device__ __forceinline__ uint32_t pack(float low, float high, __half) {
  __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&both);
}

// The elements of a word.
__device__ __forceinline__ float2 unpack(uint32_t both, __nv_bfloat16) {
  // Not by halves, which the compiler would keep in registers of their own.
  return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000));
}
__device__ __forceinline__ float2 unpack(uint32_t both, __half) {
  return __half22float2(*reinterpret_cast<__half2*>(&both));
}

// The inner product of the elements of two words.
template <typename T>
__device__ __forceinline__ float dot(uint32_t a, uint32_t b);
template <>
__device__ __forceinline__ float dot<float>(uint32_t a, uint32_t b) {
  return __uint_as_float(a) * __uint_as_float(b);
}
template <>
__device__ __forceinline__ float dot<__nv_bfloat16>(uint32_t a, uint32_t b) {
  const float2 x = __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&a));
  const float2 y = __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&b));
  return fmaf(x.x, y.x, x.y * y.y);
}
template <>
__device__ __forceinline__ float dot<__half>(uint32_t a, uint32_t b) {
  const float2 x = __half22float2(*reinterpret_cast<__half2*>(&a));
  const float2 y = __half22float2(*reinterpret_cast<__half2*>(&b));
  return fmaf(x.x, y.x, x.y * y.y);
}

}  // namespace jax_na::cuda
