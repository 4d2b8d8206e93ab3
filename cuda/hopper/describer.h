// The describer of the Hopper kernel: one warp that finds out what an item is, some items ahead of
// the others.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/shared.h"
#include "cuda/place_axis.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"

namespace jax_na::cuda {

// Describes item `index` in `slot`, by all lanes; false where the dilation group is too short to
// have it.
template <typename Control>
__device__ inline bool describe_item(const HopperPlan& plan, const Problem& problem,
                                     const int32_t* origins, Control& control, int slot,
                                     int index) {
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
    make_axis_item<false>(item.axis[lane], place_axis(problem, origins, lane), plan, lane, group,
                          place * plan.box(lane));
  }
  __syncwarp();
  const bool exists = item.axis[0].rows > 0 && item.axis[1].rows > 0 && item.axis[2].rows > 0;
  if (exists) {
    // All axes at a time: each takes a while, and most have a few places.
    const int second_axis = seen_begin(plan, 1), third_axis = seen_begin(plan, 2);
#pragma unroll 1
    for (int at = lane; at < third_axis + plan.box(2); at += 32) {
      const int a = at < second_axis ? 0 : at < third_axis ? 1 : 2;
      const int begin = a == 0 ? 0 : a == 1 ? second_axis : third_axis;
      control.seen[slot][at] = item.axis[a].seen<false>(at - begin);
    }
    if (lane == 0) {
      item.entry = index;
      item.head = head;
      item.windows = item.axis[0].tiles * item.axis[1].tiles * item.axis[2].tiles;
      const int columns = plan.column_count();
      const int lines = (problem.additional + columns - 1) / columns;
      // Rows that meet nothing meet one tile, of which everything is hidden.
      if (item.windows == 0 && lines == 0) item.windows = 1;
      item.total = item.windows + lines;
      item.last = false;
    }
  }
  __syncwarp();
  return exists;
}

template <typename Shape>
__device__ inline void describe(const HopperArguments& arguments, HopperControl<Shape>& control) {
  const HopperPlan& plan = arguments.plan;
  RingPlace<kItemsKnown> item_place;
  auto wait_until_free = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.done[item_place.stage]), item_place.parity ^ 1);
  };
  const int ctas = gridDim.x;
  int place = blockIdx.x;  // of the CTA in a round
  for (int first = 0; first < plan.items; first += ctas) {
    const int index = first + place;
    place += plan.turn;
    if (place >= ctas) place -= ctas;
    if (index >= plan.items) continue;
    wait_until_free();
    if (!describe_item(plan, arguments.problem, arguments.origins, control, item_place.stage,
                       index))
      continue;
    ptx::mbarrier_arrive(ptx::shared_address(&control.described[item_place.stage]));
    item_place.next();
  }
  wait_until_free();
  if (ptx::lane() == 0) control.items[item_place.stage].last = true;
  ptx::mbarrier_arrive(ptx::shared_address(&control.described[item_place.stage]));
}

}  // namespace jax_na::cuda
