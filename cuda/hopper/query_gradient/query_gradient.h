// The gradient of the queries on Hopper GPUs (sm_90a), in the same bits every time.
#pragma once

#include <vector_types.h>

#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/hopper/forward.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// Kernels that take HopperQueryGradientArguments by value, defined where they are compiled.
template <typename T>
const std::vector<HopperInstance>& hopper_query_gradient_instances();
const std::vector<HopperInstance>& hopper_query_gradient_instances(Stored stored);

// The kernel and the plan that are predicted to be the fastest; `instance` is null where no plan is
// legal. Of the features, only the head dimension decides.
HopperChoice choose_hopper_query_gradient(const Problem& problem, Stored stored,
                                          const Device& device);

// Launches on `stream` without allocating or waiting; returns an empty text or what is wrong.
// `statistics` are those of around.h.
std::string launch_hopper_query_gradient(const HopperChoice& choice, const Backward& arguments,
                                         const float2* statistics, const Device& device,
                                         cudaStream_t stream);

}  // namespace jax_na::cuda
