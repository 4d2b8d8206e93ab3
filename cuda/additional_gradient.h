// The gradients of additional keys and values.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/launch.h"

namespace jax_na::cuda {

// Bytes that `sums` needs.
int64_t additional_gradient_workspace(const Problem& problem);

// Launches the kernels, given delta [batch, tokens, heads]. Features number 256 at most.
cudaError_t additional_gradient(const Backward& arguments, const float* delta, float* sums,
                                cudaStream_t stream);

}  // namespace jax_na::cuda
