// Words from registers to shared memory and back.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

__device__ __forceinline__ void store_shared(uint32_t address, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

// Two words; the address is aligned to 8 bytes.
__device__ __forceinline__ void store_shared(uint32_t address, uint32_t word0, uint32_t word1) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(word0), "r"(word1)
               : "memory");
}

// Four numbers; the address is aligned to 16 bytes.
__device__ __forceinline__ void store_shared(uint32_t address, float a, float b, float c, float d) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c),
               "f"(d)
               : "memory");
}

__device__ __forceinline__ uint32_t load_shared(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

// Four words; the address is aligned to 16 bytes.
__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 words;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "r"(address)
               : "memory");
  return words;
}

}  // namespace jax_na::cuda::ptx
