// What the host hands to the Hopper backward kernel.
#pragma once

#include <cuda.h>
#include <vector_types.h>

#include "core/problem.h"
#include "cuda/hopper/backward/plan.h"

namespace jax_na::cuda {

// Boxes of the keys and values and of their gradients are a warpgroup's part, those of queries a
// tile. A launch has the tokens of one phase, as its maps and its problem have.
struct HopperBackwardArguments {
  CUtensorMap key;
  CUtensorMap value;
  CUtensorMap query;
  CUtensorMap dout;
  CUtensorMap dkey;
  CUtensorMap dvalue;
  CUtensorMap additional_keys;  // the tokens along x
  CUtensorMap additional_values;
  CUtensorMap sums;  // the gradient of the queries, as `sums.h` orders it
  Problem problem;
  const uint32_t* boxes[kMaxRank];  // the launch's first one along each axis (boxes.h)
  // Of the queries, from the launch's first one: log2 of the sum, and delta. From head to head of
  // all batch entries, and from token to token of the launch.
  const float2* statistics;
  int64_t statistics_head;
  int64_t statistics_steps[kMaxRank];
  // Weights are exp2(factor * score - log2 of the sum); where that would not do scores are scaled
  // first.
  bool scale_first;
  float score_scale, weight_factor;
  // [2 (of keys, of values), batch, additional, kv_heads, features], all 0; where nothing is added
  // up in memory, one for each of the launch's parts of the queries.
  float* additional_sums;
  int* items_taken;  // 0; CTAs take them in order, so that those of a time lie side by side
  HopperBackwardPlan plan;
};

}  // namespace jax_na::cuda
