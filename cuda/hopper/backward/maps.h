// Tensor maps of the backward pass: how the copy engine sees the tensors of a problem.
#pragma once

#include <string>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// Fills the tensor maps of `to`, whose plan is made, that of the sums only where there are any.
// Returns an empty text or what is wrong.
std::string encode_maps(const Backward& from, const float* sums, HopperBackwardArguments& to);

}  // namespace jax_na::cuda
