// Launches of kernels, and the kernels that the program knows by their address alone.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <functional>
#include <tuple>
#include <utility>

#include "cuda/emulation/block.h"

namespace jax_na::emulation {

using Launcher = std::function<void(dim3 grid, dim3 block, size_t shared_bytes, void** parameters)>;

// Tells how to launch what lies at an address.
void register_kernel(const void* kernel, Launcher launcher);

// As cudaLaunchKernel; false where no kernel was registered at the address.
bool launch_registered(const void* kernel, dim3 grid, dim3 block, void** parameters,
                       size_t shared_bytes);

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const Arguments&... arguments) {
  run_grid(grid, block, shared_bytes, [&] { kernel(arguments...); });
}

template <typename... Parameters, size_t... kIndices>
Launcher make_launcher(void (*kernel)(Parameters...), int resident,
                       std::index_sequence<kIndices...>) {
  return [kernel, resident](dim3 grid, dim3 block, size_t shared_bytes, void** parameters) {
    run_grid(
        grid, block, shared_bytes,
        [&] { kernel(*static_cast<const Parameters*>(parameters[kIndices])...); }, resident);
  };
}

template <typename... Parameters>
const void* register_kernel(void (*kernel)(Parameters...), int resident) {
  const void* address = reinterpret_cast<const void*>(kernel);
  register_kernel(address,
                  make_launcher(kernel, resident, std::index_sequence_for<Parameters...>()));
  return address;
}

}  // namespace jax_na::emulation
