// A value of which the compiler does not know that it is the same in every turn of a loop, so that
// what follows from it is computed there, and not kept in registers.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

__device__ __forceinline__ uint32_t anew(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

}  // namespace jax_na::cuda::ptx
