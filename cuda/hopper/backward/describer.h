// What an item of the backward pass is.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/item.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/mask.h"
#include "cuda/ptx/lane.h"

namespace jax_na::cuda {

// Describes item `index` in `slot`, by all lanes; false where the dilation group is too short to
// have it. The tiles
// of the window follow each other for every query head of the key head.
template <typename Shape>
__device__ inline bool describe_item(const HopperBackwardArguments& arguments,
                                     HopperBackwardControl<Shape>& control, int slot, int index) {
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  const int lane = ptx::lane();
  HopperItem& item = control.items[slot];
  const int first = plan.boxes_along[0].split(index), second = plan.boxes_along[1].split(index);
  const int third = plan.boxes_along[2].split(index);
  const int group_x = plan.group_x.split(index), group_y = plan.group_y.split(index);
  const int group_z = plan.group_z.split(index);
  const int head = plan.heads.split(index);
  if (lane < kMaxRank) {
    const int place = lane == plan.order[0] ? first : lane == plan.order[1] ? second : third;
    const int group = lane == 2 ? group_x : lane == 1 ? group_y : group_z;
    Axis axis = problem.axes[lane];
    if (axis.query_count != axis.length || axis.key_count != axis.length) {
      axis.query_origin = arguments.origins[lane];
      axis.key_origin = arguments.origins[kMaxRank + lane];
    }
    make_key_item(item.axis[lane], axis, plan, lane, group, place * plan.box(lane));
  }
  __syncwarp();
  const bool exists =
      item.axis[0].queries > 0 && item.axis[1].queries > 0 && item.axis[2].queries > 0;
  if (exists) {
    for (int a = 0; a < kMaxRank; ++a) {
      for (int place = lane; place < plan.box(a); place += 32)
        control.seen[slot][seen_begin(plan, a) + place] = queries_of_place(item.axis[a], place);
    }
    if (lane == 0) {
      item.entry = index;
      item.head = head;
      item.windows = item.axis[0].tiles * item.axis[1].tiles * item.axis[2].tiles;
      // Keys that nobody sees meet one tile, of which everything is hidden.
      if (item.windows == 0) item.windows = 1;
      item.total = item.windows * problem.group();
      item.last = false;
    }
  }
  __syncwarp();
  return exists;
}

}  // namespace jax_na::cuda
