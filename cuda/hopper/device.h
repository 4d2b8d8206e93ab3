// The current device, as far as the Hopper kernels ask.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "core/problem.h"
#include "core/stored.h"

namespace jax_na::cuda {

struct HopperDevice {
  bool hopper = false;  // compute capability 9.0
  int multiprocessors = 0;
};

// Remembered for each device.
cudaError_t current_hopper_device(HopperDevice& device);

// A problem as a key: everything but the scale, which no plan depends on.
std::string hopper_key(const Problem& problem, Stored stored, const HopperDevice& device);

}  // namespace jax_na::cuda
