// Kernels by their address.
#pragma once

#include "cuda/emulation/launch.h"

namespace jax_na::cuda::ptx {

template <typename... Parameters>
const void* address_of(void (*kernel)(Parameters...), int resident = 1) {
  return emulation::register_kernel(kernel, resident);
}

}  // namespace jax_na::cuda::ptx
