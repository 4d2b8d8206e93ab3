// What the backward pass does before and after its main kernel.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_types.h>

#include "cuda/hopper/backward/boxes.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// Makes `bytes` from `zeros` on zero, both multiples of 16, and describes all boxes of keys.
cudaError_t launch_beginning(const Backward& arguments, const HopperPlan& plan,
                             const KeyBoxes& boxes, void* zeros, int64_t bytes,
                             cudaStream_t stream);

// Leaves of every query the log-sum-exp in units of log2 (infinity for a query that sees nothing)
// and delta = sum(dout * out) - dlse in statistics[batch, heads, z, y, x].
cudaError_t launch_statistics(const Backward& arguments, float2* statistics, cudaStream_t stream);

// Rounds `sums`, ordered as sums.h says, to arguments.dquery.
cudaError_t launch_rounding(const Backward& arguments, const float* sums, cudaStream_t stream);

// Rounds the sums of the gradients of additional keys, and then of additional values, to
// arguments.dadditional_keys and arguments.dadditional_values. There are `parts` of such sums,
// which are added up in order.
cudaError_t launch_additional_rounding(const Backward& arguments, const float* sums, int parts,
                                       cudaStream_t stream);

}  // namespace jax_na::cuda
