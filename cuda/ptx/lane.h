// The thread's place in its warp.
#pragma once

namespace jax_na::cuda::ptx {

// Read anew wherever it is asked for, so that no register keeps it: for code off the main path.
__device__ __forceinline__ int lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

}  // namespace jax_na::cuda::ptx
