// How a warp of the backward kernels finds out what an item is: from the descriptions of its box
// along each axis, which are in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cuda/hopper/backward/boxes.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/mask.h"
#include "cuda/ptx/lane.h"

namespace jax_na::cuda {

// Describes item `index` in `slot`, by all lanes; false where the dilation group is too short to
// have it. `boxes` are the launch's first ones of each axis.
template <typename Shape>
__device__ inline bool fetch_item(const HopperPlan& plan, const Problem& problem,
                                  const uint32_t* const (&boxes)[kMaxRank],
                                  HopperBackwardControl<Shape>& control, int slot, int index) {
  const int lane = ptx::lane();
  HopperItem& item = control.items[slot];
  const int first = plan.boxes_along[0].split(index), second = plan.boxes_along[1].split(index);
  const int third = plan.boxes_along[2].split(index);
  const int groups[kMaxRank] = {plan.group_z.split(index), plan.group_y.split(index),
                                plan.group_x.split(index)};
  const int head = plan.heads.split(index);

  // All that is read is asked for before any of it is waited for.
  const uint32_t* from[kMaxRank];
  uint32_t words[kMaxRank];  // of the boxes, one of this lane
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int place = a == plan.order[0] ? first : a == plan.order[1] ? second : third;
    from[a] = boxes[a] + int64_t{groups[a] * plan.boxes[a] + place} * KeyBoxes::stride(plan, a);
    words[a] = lane < kKeyBoxWords ? from[a][lane] : 0;
  }
  constexpr int kRounds = (Shape::kMostPlaces + 31) / 32;
  const int second_axis = seen_begin(plan, 1), third_axis = seen_begin(plan, 2);
  const int places = third_axis + plan.box(2);
  uint2 seen[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int at = lane + 32 * round;
    if (at >= places) continue;
    const uint32_t* axis = at < second_axis  ? from[0]
                           : at < third_axis ? from[1] - 2 * second_axis
                                             : from[2] - 2 * third_axis;
    seen[round] = *reinterpret_cast<const uint2*>(axis + kKeyBoxWords + 2 * at);
  }

  bool exists = true;
  int windows = 1;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    constexpr int kRowsAt = offsetof(AxisItem, rows) / 4, kTilesAt = offsetof(AxisItem, tiles) / 4;
    exists = exists && static_cast<int>(__shfl_sync(~0u, words[a], kRowsAt)) > 0;
    windows *= static_cast<int>(__shfl_sync(~0u, words[a], kTilesAt));
    if (lane < kKeyBoxWords - 1)
      memcpy(reinterpret_cast<unsigned char*>(&item.axis[a]) + 4 * lane, &words[a], 4);
  }
  if (lane == kKeyBoxWords - 1) item.pairs = static_cast<int>(words[2]);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int at = lane + 32 * round;
    if (at < places) memcpy(&control.seen[slot][at], &seen[round], sizeof(Interval));
  }
  if (lane == 0) {
    item.entry = index;
    item.head = head;
    // Keys that nobody sees meet one tile, of which everything is hidden.
    item.windows = max(windows, 1);
    // They meet the tiles of every query head that shares them.
    item.total = item.windows * problem.group();
    item.last = false;
  }
  __syncwarp();
  return exists;
}

}  // namespace jax_na::cuda
