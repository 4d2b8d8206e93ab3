// mma.sync: products of 16-row fragments on the tensor cores, accumulated in float32.
//
// Fragments of one warp, with g = lane / 4 and t = lane % 4:
//   accumulator 16x8: c[0], c[1] at row g, columns 2t and 2t + 1; c[2], c[3] at row g + 8.
//   a 16 rows x 32 bytes: a[0] row g, a[1] row g + 8, a[2] and a[3] the same in the second 16
//   bytes. b 32 bytes x 8 columns: b0 the first 16 bytes of column g, b1 the second.
// Within 16 bytes a lane holds the 32-bit word t: two 16-bit elements, or one float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace jax_na::cuda::ptx {

#define JAX_NA_MMA(shape_and_types)                                                       \
  asm volatile("mma.sync.aligned." shape_and_types                                        \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"     \
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), \
                 "f"(c[1]), "f"(c[2]), "f"(c[3]))

// d = a b + c; `d` and `c` may be the same. The last argument chooses the elements: of float the
// tensor core reads the 19 bits of TF32.
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    const float (&c)[4], __nv_bfloat16) {
  JAX_NA_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    const float (&c)[4], __half) {
  JAX_NA_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    const float (&c)[4], float) {
  JAX_NA_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef JAX_NA_MMA

// The nearest TF32 number, as the bits of a float.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

}  // namespace jax_na::cuda::ptx
