// The numbered barriers of a block, for some of its warps. Number 0 is __syncthreads.
#pragma once

namespace jax_na::cuda::ptx {

// Waits until `threads` have arrived, this one among them.
__device__ __forceinline__ void barrier_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Arrives without waiting.
__device__ __forceinline__ void barrier_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace jax_na::cuda::ptx
