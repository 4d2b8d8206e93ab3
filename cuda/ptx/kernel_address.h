// Kernels by their address, as cudaLaunchKernel and its like know them.
#pragma once

namespace jax_na::cuda::ptx {

template <typename... Parameters>
const void* address_of(void (*kernel)(Parameters...)) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace jax_na::cuda::ptx
