// Which kernels run the fused backward pass, and what they are preferred to.
#pragma once

#include <string>

#include "cuda/device.h"
#include "cuda/dispatch.h"
#include "cuda/hopper/backward/backward.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

struct BackwardChoice {
  HopperBackwardChoice hopper;
  Choice query_gradient, key_gradient;  // of the kernels for every GPU
  double warps_factor = 1;              // of what is predicted for these, on the scale of the other
  double additional_clocks = 0;         // of the gradients of additional keys beside them
  bool is_hopper = false;
};

// A single Hopper kernel adds up the gradient of the queries in any order: never where the pass is
// to be deterministic. A pair of them does not, nor do the kernels for every GPU.
BackwardChoice choose_backward(const Problem& problem, Stored stored, Precision precision,
                               const Device& device, bool deterministic);

// The choice in words, with the predicted clocks of one multiprocessor.
std::string explain(const BackwardChoice& choice);

}  // namespace jax_na::cuda
