// What the host hands to the Hopper kernel.
#pragma once

#include <cuda.h>

#include "core/problem.h"
#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

// Tensor maps of five axes: (heads and features, x, y, z, batch entry) or, where the plan says that
// heads are apart, (features, heads, x, y, z or batch entry), of which one has a single place. A
// box of the queries and of the results is a warpgroup's part, one of the keys and values a tile.
// A launch has the tokens of one phase, as its maps and its problem have.
struct HopperArguments {
  CUtensorMap query;
  CUtensorMap key;
  CUtensorMap value;
  CUtensorMap additional_keys;  // the tokens along x
  CUtensorMap additional_values;
  CUtensorMap out;
  Problem problem;
  const int32_t* origins;
  float* lse;  // of the launch's first token
  // From batch entry to batch entry of LSE, and from token to token of the launch.
  int64_t lse_entry;
  int64_t lse_steps[kMaxRank];
  HopperPlan plan;
};

// The coordinates of a box that begins with feature `column` of a head.
struct MapPlace {
  int at[5];

  JAX_NA_INLINE MapPlace(const HopperPlan& plan, int features, int head, int column, int x, int y,
                         int z, int entry)
      : at{column, head, x, y, z + entry} {
    if (!plan.heads_apart) {
      at[0] = head * features + column;
      at[1] = x;
      at[2] = y;
      at[3] = z;
      at[4] = entry;
    }
  }
};

}  // namespace jax_na::cuda
