// What the host hands to the Hopper kernel.
#pragma once

#include <cuda.h>

#include "core/problem.h"
#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

// Tensor maps of five axes: (heads and features, x, y, z, batch entry). A box of the queries and of
// the results is a warpgroup's part, one of the keys and values a tile.
struct HopperArguments {
  CUtensorMap query;
  CUtensorMap key;
  CUtensorMap value;
  CUtensorMap additional_keys;  // the tokens along x
  CUtensorMap additional_values;
  CUtensorMap out;
  Problem problem;
  const int32_t* origins;
  float* lse;
  HopperPlan plan;
};

}  // namespace jax_na::cuda
