// The GPU that is planned for.
#pragma once

#include <cuda_runtime_api.h>

namespace jax_na::cuda {

struct Device {
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  int shared_bytes = 0;     // of a CTA at most
  int sm_shared_bytes = 0;  // of a multiprocessor

  bool hopper() const { return major == 9 && minor == 0; }
};

// Of the current device, which is the stream's. Asked for once.
cudaError_t current_device(Device& device);

// A GPU that need not be there: of compute capability 9.0, with so many multiprocessors.
Device hopper_device(int multiprocessors);

}  // namespace jax_na::cuda
