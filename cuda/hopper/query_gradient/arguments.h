// What the host hands to the kernel for the gradient of the queries.
#pragma once

#include <cuda.h>
#include <vector_types.h>

#include "cuda/hopper/arguments.h"

namespace jax_na::cuda {

// What the forward kernel is handed, where `out` is the gradient of the queries.
struct HopperQueryGradientArguments : HopperArguments {
  CUtensorMap dout;  // boxes as of the queries
  // [batch, heads, z, y, x] of the queries: log2 of the sum, and delta; of the launch's first
  // token.
  const float2* statistics;
  // From head to head, and from token to token of the launch.
  int64_t statistics_head;
  int64_t statistics_steps[kMaxRank];
};

}  // namespace jax_na::cuda
