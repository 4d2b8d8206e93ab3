// How the Hopper backward kernel cuts a problem.
//
// As in the forward pass, with the roles exchanged: the rows of a HopperPlan are keys here, and its
// keys are the queries of a tile, of which there are those that some key of the item is seen by.
#pragma once

#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

struct HopperBackwardPlan : HopperPlan {
  // The axes along which items follow each other; the first changes with every item.
  int order[kMaxRank] = {2, 1, 0};
  FastDiv boxes_along[kMaxRank];  // in that order
  // The queries that the items of a time meet, and their sums, are more than the L2 cache holds.
  bool beyond_cache = false;
};

// Plans the main kernel of the backward pass of `problem`; false where no plan is legal.
bool make_hopper_backward_plan(const Problem& problem, const HopperLimits& limits,
                               int multiprocessors, HopperBackwardPlan& plan);

std::string str(const HopperBackwardPlan& plan);

}  // namespace jax_na::cuda
