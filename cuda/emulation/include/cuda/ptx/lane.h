// The thread's place in its warp, and in its block of one axis.
#pragma once

#include <cuda_runtime.h>

namespace jax_na::cuda::ptx {

inline int lane() {
  return static_cast<int>(threadIdx.x % 32);
}

inline int thread() {
  return static_cast<int>(threadIdx.x);
}

}  // namespace jax_na::cuda::ptx
