// Kernels by their address, as cudaLaunchKernel and its like know them.
#pragma once

namespace jax_na::cuda::ptx {

// `resident`: blocks of a multiprocessor that the kernel's launch bounds leave registers for. The
// emulation does not see launch bounds.
template <typename... Parameters>
const void* address_of(void (*kernel)(Parameters...), int /* resident */ = 1) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace jax_na::cuda::ptx
