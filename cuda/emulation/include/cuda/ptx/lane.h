// The thread's place in its warp.
#pragma once

#include <cuda_runtime.h>

namespace jax_na::cuda::ptx {

inline int lane() {
  return static_cast<int>(threadIdx.x % 32);
}

}  // namespace jax_na::cuda::ptx
