// Launches in the words of C++, without CUDA's own syntax.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda::ptx {

// Launches `kernel` on `stream`. Of shared memory it may ask for 48 KiB, and for more where
// cudaFuncSetAttribute allowed that.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  auto with_converted = [&](Parameters... converted) {
    void* pointers[] = {&converted...};
    return cudaLaunchKernel(address_of(kernel), grid, block, pointers, shared_bytes, stream);
  };
  return with_converted(arguments...);
}

}  // namespace jax_na::cuda::ptx
