// stmatrix: four 8x8 matrices of 16-bit elements from fragments to shared memory.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

// Lane 8i + r gives the address of row r (16 bytes) of matrix i, whose words are from[i]: word t of
// row g in lane 4g + t.
__device__ __forceinline__ void stmatrix(uint32_t address, const uint32_t (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

}  // namespace jax_na::cuda::ptx
