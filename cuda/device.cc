#include "cuda/device.h"

#include <map>
#include <mutex>
#include <utility>

namespace jax_na::cuda {

cudaError_t current_device(Device& device) {
  static std::mutex mutex;
  static std::map<int, Device> known;
  int ordinal = 0;
  cudaError_t status = cudaGetDevice(&ordinal);
  if (status != cudaSuccess) return status;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(ordinal);
  if (found == known.end()) {
    Device asked;
    for (auto [attribute, to] :
         {std::pair{cudaDevAttrComputeCapabilityMajor, &asked.major},
          std::pair{cudaDevAttrComputeCapabilityMinor, &asked.minor},
          std::pair{cudaDevAttrMultiProcessorCount, &asked.multiprocessors},
          std::pair{cudaDevAttrMaxSharedMemoryPerBlockOptin, &asked.shared_bytes},
          std::pair{cudaDevAttrMaxSharedMemoryPerMultiprocessor, &asked.sm_shared_bytes}}) {
      status = cudaDeviceGetAttribute(to, attribute, ordinal);
      if (status != cudaSuccess) return status;
    }
    found = known.emplace(ordinal, asked).first;
  }
  device = found->second;
  return cudaSuccess;
}

Device hopper_device(int multiprocessors) {
  return {9, 0, multiprocessors, 227 * 1024, 228 * 1024};
}

}  // namespace jax_na::cuda
