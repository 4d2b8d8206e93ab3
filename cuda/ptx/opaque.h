// Values as they are, but ones of which the compiler knows nothing.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

// It is computed once, where the compiler would rather take apart what it was made of.
__device__ __forceinline__ const char* opaque(const char* pointer) {
  asm("" : "+l"(pointer));
  return pointer;
}

// What follows from it is computed anew in every turn of a loop, and not kept in registers.
__device__ __forceinline__ uint32_t anew(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

}  // namespace jax_na::cuda::ptx
