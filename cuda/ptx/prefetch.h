// Asks for memory ahead of its use.
#pragma once

namespace jax_na::cuda::ptx {

// The line of 128 bytes that `from` lies in is to come to the second cache.
__device__ __forceinline__ void prefetch_line(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

}  // namespace jax_na::cuda::ptx
