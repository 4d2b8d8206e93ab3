// How the Hopper backward kernel cuts a problem.
#pragma once

#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

// Items of additional keys follow those of the window: each has one box of them, as many as rows,
// and a part of the tiles of all queries.
struct AdditionalItems {
  int boxes = 0;
  int tiles[kMaxRank] = {1, 1, 1};  // of an item, along the axes
  int parts[kMaxRank] = {1, 1, 1};  // that hold all tiles of the longest dilation group
  int count = 0;                    // of items
};

struct HopperBackwardPlan : HopperPlan {
  AdditionalItems additional;
  // The queries that the items of a time meet, and their sums, are more than the L2 cache holds.
  bool beyond_cache = false;
};

// Items of the first launch, which has the most.
JAX_NA_INLINE int all_items(const HopperBackwardPlan& plan) {
  return plan.items + plan.additional.count;
}

// The parts that items of additional keys cut the queries of a launch into, of all dilation groups.
double additional_parts(const Problem& launch, const HopperBackwardPlan& plan);

// How many they are in all launches at most, whichever the plan, where no sums are added up in
// memory.
int64_t most_additional_parts(const Problem& problem);

// Plans the main kernel of the backward pass of `problem`; false where no plan is legal.
bool make_hopper_backward_plan(const Problem& problem, const HopperLimits& limits,
                               int multiprocessors, HopperBackwardPlan& plan);

}  // namespace jax_na::cuda
