#include "cuda/hopper/device.h"

#include <map>
#include <mutex>
#include <utility>

namespace jax_na::cuda {

cudaError_t current_hopper_device(HopperDevice& device) {
  static std::mutex mutex;
  static std::map<int, HopperDevice> known;
  int ordinal = 0;
  cudaError_t status = cudaGetDevice(&ordinal);
  if (status != cudaSuccess) return status;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(ordinal);
  if (found == known.end()) {
    int major = 0, minor = 0;
    for (auto [attribute, to] :
         {std::pair{cudaDevAttrComputeCapabilityMajor, &major},
          std::pair{cudaDevAttrComputeCapabilityMinor, &minor},
          std::pair{cudaDevAttrMultiProcessorCount, &device.multiprocessors}}) {
      status = cudaDeviceGetAttribute(to, attribute, ordinal);
      if (status != cudaSuccess) return status;
    }
    device.hopper = major == 9 && minor == 0;
    found = known.emplace(ordinal, device).first;
  }
  device = found->second;
  return cudaSuccess;
}

std::string hopper_key(const Problem& problem, Stored stored, const HopperDevice& device) {
  std::string key;
  auto add = [&](const auto& value) {
    key.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  add(stored), add(device.multiprocessors), add(device.hopper), add(problem.batch);
  for (int value : {problem.heads, problem.kv_heads, problem.head_dim, problem.value_dim,
                    problem.additional, problem.bias_batch})
    add(value);
  for (const Axis& axis : problem.axes) {
    for (int value :
         {axis.length, axis.window, axis.stride, axis.dilation, axis.query_count, axis.key_count,
          static_cast<int>(axis.causal), static_cast<int>(axis.boundary)})
      add(value);
  }
  return key;
}

}  // namespace jax_na::cuda
