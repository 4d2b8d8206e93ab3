// The thread's place in its warp, and in its block of one axis.
#pragma once

namespace jax_na::cuda::ptx {

// Read anew wherever it is asked for, so that no register keeps it: for code off the main path.
__device__ __forceinline__ int lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

__device__ __forceinline__ int thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

}  // namespace jax_na::cuda::ptx
