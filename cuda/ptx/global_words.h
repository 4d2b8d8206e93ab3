// Words from registers to global memory.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

// Four words at once, where the compiler makes four stores of an assignment. The address is aligned
// to 16 bytes.
__device__ __forceinline__ void store_global_16(void* to, const uint4& words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x), "r"(words.y),
               "r"(words.z), "r"(words.w)
               : "memory");
}

}  // namespace jax_na::cuda::ptx
