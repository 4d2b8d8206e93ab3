// How the Hopper backward kernel cuts a problem.
#pragma once

#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

struct HopperBackwardPlan : HopperPlan {
  // The queries that the items of a time meet, and their sums, are more than the L2 cache holds.
  bool beyond_cache = false;
};

// Plans the main kernel of the backward pass of `problem`; false where no plan is legal.
bool make_hopper_backward_plan(const Problem& problem, const HopperLimits& limits,
                               int multiprocessors, HopperBackwardPlan& plan);

}  // namespace jax_na::cuda
