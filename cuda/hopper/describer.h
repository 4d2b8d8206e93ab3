// The describer of the Hopper kernel: one warp that finds out what an item is, some items ahead of
// the others.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/shared.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"

namespace jax_na::cuda {

// Describes item `index` in `slot`, by all lanes; false where the dilation group is too short to
// have it.
template <typename Shape>
__device__ inline bool describe_item(const HopperArguments& arguments,
                                     HopperControl<Shape>& control, int slot, int index) {
  const HopperPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  const int lane = threadIdx.x % 32;
  HopperItem& item = control.items[slot];
  const int x = plan.boxes_x.split(index), y = plan.boxes_y.split(index);
  const int z = plan.boxes_z.split(index);
  const int group_x = plan.group_x.split(index), group_y = plan.group_y.split(index);
  const int group_z = plan.group_z.split(index);
  const int head = plan.heads.split(index);
  if (lane < kMaxRank) {
    const int place = lane == 2 ? x : lane == 1 ? y : z;
    const int group = lane == 2 ? group_x : lane == 1 ? group_y : group_z;
    Axis axis = problem.axes[lane];
    if (axis.query_count != axis.length || axis.key_count != axis.length) {
      axis.query_origin = arguments.origins[lane];
      axis.key_origin = arguments.origins[kMaxRank + lane];
    }
    item.axis[lane] = axis_item(axis, plan, lane, group, place * plan.box(lane));
  }
  __syncwarp();
  const bool exists =
      item.axis[0].queries > 0 && item.axis[1].queries > 0 && item.axis[2].queries > 0;
  if (exists) {
    for (int a = 0; a < kMaxRank; ++a) {
      for (int place = lane; place < plan.box(a); place += 32)
        control.seen[slot][seen_begin(plan, a) + place] = item.axis[a].seen(place);
    }
    if (lane == 0) {
      item.entry = index;
      item.head = head;
      item.windows = item.axis[0].tiles * item.axis[1].tiles * item.axis[2].tiles;
      item.total = item.windows + (problem.additional + plan.key_count() - 1) / plan.key_count();
      // Queries that see nothing see one tile, of which everything is hidden.
      if (item.total == 0) item.windows = item.total = 1;
      item.last = false;
    }
  }
  __syncwarp();
  return exists;
}

template <typename Shape>
__device__ inline void describe(const HopperArguments& arguments, HopperControl<Shape>& control) {
  const int lane = threadIdx.x % 32;
  RingPlace<kItemsKnown> place;
  auto wait_until_free = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.done[place.stage]), place.parity ^ 1);
  };
  for (int index = blockIdx.x; index < arguments.plan.items; index += gridDim.x) {
    wait_until_free();
    if (!describe_item(arguments, control, place.stage, index)) continue;
    if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&control.described[place.stage]));
    place.next();
  }
  wait_until_free();
  if (lane == 0) {
    control.items[place.stage].last = true;
    ptx::mbarrier_arrive(ptx::shared_address(&control.described[place.stage]));
  }
}

}  // namespace jax_na::cuda
