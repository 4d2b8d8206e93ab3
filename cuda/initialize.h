// The stage before execution: kernels are loaded then, once for each device.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
#include <set>
#include <string>

#include "cuda/guarded.h"

namespace jax_na::cuda {

// Calls `kLoad`, which returns an empty text or what is wrong, unless it succeeded on the current
// device before. XLA asks for this before every execution of every custom call in a program.
template <auto kLoad>
xla::ffi::Error initialize() {
  return guarded([]() -> std::string {
    static std::mutex mutex;
    static std::set<int> loaded;
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess) return cudaGetErrorString(status);
    std::lock_guard<std::mutex> lock(mutex);
    if (loaded.count(device) > 0) return "";
    const std::string wrong = kLoad();
    if (wrong.empty()) loaded.insert(device);
    return wrong;
  });
}

}  // namespace jax_na::cuda
