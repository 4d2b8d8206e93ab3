// ldmatrix: four 8x8 matrices of 16-bit elements from shared memory to the fragments of mma.sync.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

// An address in shared memory as the 32-bit number that PTX takes.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Lane 8i + r gives the address of row r (16 bytes) of matrix i, which arrives in to[i]: word t of
// row g in lane 4g + t.
__device__ __forceinline__ void ldmatrix(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// The same with every matrix transposed: elements 2t and 2t + 1 of column g in lane 4g + t.
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

}  // namespace jax_na::cuda::ptx
