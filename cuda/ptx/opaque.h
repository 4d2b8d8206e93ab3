// A value as it is, but one of which the compiler knows nothing: it computes it once, where it
// would rather take apart what it was made of.
#pragma once

namespace jax_na::cuda::ptx {

__device__ __forceinline__ const char* opaque(const char* pointer) {
  asm("" : "+l"(pointer));
  return pointer;
}

}  // namespace jax_na::cuda::ptx
