// How a warp of the backward kernels finds out what an item is: from the descriptions of its box
// along each axis, which are in memory.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/boxes.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/mask.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"

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

  // Straight to shared memory: all is on its way before any of it is waited for, in no registers.
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int place = a == plan.order[0] ? first : a == plan.order[1] ? second : third;
    const uint32_t* from =
        boxes[a] + int64_t{groups[a] * plan.boxes[a] + place} * KeyBoxes::stride(plan, a);
    auto copy = [&](void* to, int word) {
      ptx::cp_async_4(ptx::shared_address(to), from + word, true);
    };
    if (lane < kKeyBoxWords - 1) copy(reinterpret_cast<uint32_t*>(&item.axis[a]) + lane, lane);
    if (a == kMaxRank - 1 && lane == kKeyBoxWords - 1) copy(&item.pairs, lane);
    auto* seen = reinterpret_cast<uint32_t*>(control.seen[slot] + seen_begin(plan, a));
#pragma unroll 1
    for (int word = lane; word < 2 * plan.box(a); word += 32)
      copy(seen + word, kKeyBoxWords + word);
  }
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncwarp();
  bool exists = true;
  int windows = 1;
  for (const AxisItem& axis : item.axis) {
    exists = exists && axis.rows > 0;
    windows *= axis.tiles;
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
