#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <string_view>
#include <utility>

#include "cuda/emulation/device.h"
#include "cuda/emulation/launch.h"
#include "cuda/emulation/memory.h"

namespace {

// What every kernel may have, and more where it was asked for.
constexpr int kDefaultSharedBytes = 48 << 10;

int device = 0;
std::map<std::pair<int, const void*>, int> allowed_shared_bytes;  // of a device's kernel
cudaError_t last_error = cudaSuccess;

cudaError_t remember(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

int allowed_for(const void* kernel) {
  const auto found = allowed_shared_bytes.find({device, kernel});
  return found == allowed_shared_bytes.end() ? kDefaultSharedBytes : found->second;
}

}  // namespace

namespace jax_na::emulation {

const Device& current_device() {
  return kDevices[device];
}

}  // namespace jax_na::emulation

using jax_na::emulation::current_device;
using jax_na::emulation::kDevices;

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    default:
      return "invalid argument";
  }
}

cudaError_t cudaGetLastError() {
  const cudaError_t status = last_error;
  last_error = cudaSuccess;
  return status;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(std::size(jax_na::emulation::kDevices));
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int ordinal) {
  if (ordinal < 0 || ordinal >= static_cast<int>(std::size(kDevices)))
    return remember(cudaErrorInvalidValue);
  device = ordinal;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal) {
  if (ordinal < 0 || ordinal >= static_cast<int>(std::size(kDevices)))
    return remember(cudaErrorInvalidValue);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = kDevices[ordinal].multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = kDevices[ordinal].capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = kDevices[ordinal].capability % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = kDevices[ordinal].sm_shared_bytes;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kDevices[ordinal].shared_bytes;
      return cudaSuccess;
  }
  return remember(cudaErrorInvalidValue);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  attributes->maxDynamicSharedSizeBytes = allowed_for(kernel);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value < 0 || value > current_device().shared_bytes) return remember(cudaErrorInvalidValue);
  allowed_shared_bytes[{device, kernel}] = value;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel,
                                                          int threads, size_t shared_bytes) {
  constexpr int kMostThreads = 2048, kReservedBytes = 1024;
  if (threads < 1 || shared_bytes > static_cast<size_t>(allowed_for(kernel)))
    return remember(cudaErrorInvalidValue);
  const int by_shared =
      current_device().sm_shared_bytes / (static_cast<int>(shared_bytes) + kReservedBytes);
  *blocks = std::min(kMostThreads / threads, by_shared);
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** parameters,
                             size_t shared_bytes, cudaStream_t) {
  constexpr unsigned kMostThreads = 1024, kMostBlocksY = 65535;
  const bool legal = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu &&
                     grid.y <= kMostBlocksY && grid.z <= kMostBlocksY &&
                     block.x * block.y * block.z > 0 &&
                     block.x * block.y * block.z <= kMostThreads &&
                     shared_bytes <= static_cast<size_t>(allowed_for(kernel));
  if (!legal ||
      !jax_na::emulation::launch_registered(kernel, grid, block, parameters, shared_bytes))
    return remember(cudaErrorInvalidValue);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  constexpr size_t kAlignment = 16;  // what kernels may rely on
  *memory = jax_na::emulation::allocate_guarded(bytes, kAlignment);
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  jax_na::emulation::free_guarded(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  if (bytes > 0) std::memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  return cudaGetLastError();
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::string_view(name) == "cuTensorMapEncodeTiled";
  *function = known ? reinterpret_cast<void*>(cuTensorMapEncodeTiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
