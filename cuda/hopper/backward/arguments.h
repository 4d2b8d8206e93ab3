// What the host hands to the Hopper backward kernel.
#pragma once

#include <cuda.h>
#include <vector_types.h>

#include "core/problem.h"
#include "cuda/hopper/backward/plan.h"

namespace jax_na::cuda {

// Boxes of the keys and values and of their gradients are a warpgroup's part, those of queries a
// tile.
struct HopperBackwardArguments {
  CUtensorMap key;
  CUtensorMap value;
  CUtensorMap query;
  CUtensorMap dout;
  CUtensorMap dkey;
  CUtensorMap dvalue;
  CUtensorMap sums;  // the gradient of the queries, as `sums.h` orders it
  Problem problem;
  const int32_t* origins;
  const float2* statistics;  // [batch, heads, z, y, x] of the queries: log2 of the sum, and delta
  int* items_taken;          // 0; CTAs take them in order, so that those of a time lie side by side
  HopperBackwardPlan plan;
};

}  // namespace jax_na::cuda
