// The gradient of the queries while it is summed: float32 [batch, heads, z, y, x, features], with
// the features of every 32 in an order that suits those who add, and as many of them that none of
// those 32 are missing.
//
// A lane with t = lane % 4 has columns 8n + 2t and 8n + 2t + 1 of a product. Of the columns with n
// = 2j and 2j + 1 it makes 16 bytes, chunk 2t + j % 2 of the 128 bytes that hold 32 columns: with
// the swizzle of the copy engine no two lanes of a quarter of a warp meet in a bank.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/additional.h"
#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/describer.h"
#include "cuda/hopper/backward/lane_places.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/tile_walk.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/shared_words.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

// Where a pair of neighbouring features begins, of those of a head.
__device__ __forceinline__ int sum_place(int feature) {
  const int within = feature % 32, chunk = within % 8 / 2 * 2 + within / 16;
  return feature - within + 4 * chunk + within / 8 % 2 * 2;
}

// Writes a warp's 16 rows of sums to the panels at `to`, as the copy engine reads them. The columns
// begin with the 16 `half` of a panel.
template <typename Shape, int kCount>
__device__ __forceinline__ void stage_sums(const float (&sums)[kCount], uint32_t to, int half,
                                           const LanePlaces& places) {
#pragma unroll
  for (int j = 0; j < kCount / 8; ++j) {
    const uint32_t line = to + (places.sums ^ 16 * (j % 2 + half));
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float* low = sums + 8 * j + 2 * r;
      ptx::store_shared(line + j / 2 * Shape::kSumPanelBytes + 8 * r * kPanelRowBytes, low[0],
                        low[1], low[4], low[5]);
    }
  }
}

// One warp describes items and has the copy engine add what the consumers have staged. An item is
// described when a place for it becomes free; consumers stage nothing in the meantime.
template <typename Shape>
__device__ inline void describe_and_add(const HopperBackwardArguments& arguments,
                                        HopperBackwardControl<Shape>& control, uint32_t base) {
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  RingPlace<Shape::kSumBuffers> sums_place;

  // From a counter for all, so that the items of a time stay neighbours however long each takes.
  // Where the cache does not hold what they meet, to go through the items in step was faster.
  if (ptx::lane() == 0) control.next_item = blockIdx.x;
  auto take_item = [&] {
    if (!plan.beyond_cache) return atomicAdd(arguments.items_taken, 1);
    const int index = control.next_item;
    control.next_item = index + gridDim.x;
    return index;
  };
  // Describes the item that is the `number`th here; false where that is the end of them.
  auto describe = [&](int number) {
    const int slot = number % kItemsKnown;
    int index = 0;
    if (ptx::lane() == 0) index = take_item();  // on its way while the place is waited for
    ptx::mbarrier_wait(ptx::shared_address(&control.done[slot]), number / kItemsKnown % 2 ^ 1);
    bool exists = false;
    for (;;) {
      index = __shfl_sync(~0u, index, 0);
      if (index >= all_items(plan)) break;
      if (index < plan.items) {
        exists = fetch_item(plan, problem, arguments.boxes, control, slot, index);
        if (ptx::lane() == 0) control.additional[slot] = -1;
      } else {
        exists = describe_additional(plan, problem, control, slot, index - plan.items);
      }
      if (exists) break;
      if (ptx::lane() == 0) index = take_item();
    }
    if (ptx::lane() == 0 && !exists) control.items[slot].last = true;
    ptx::mbarrier_arrive(ptx::shared_address(&control.described[slot]));
    __syncwarp();
    return exists;
  };

  using Walk = LineWalk<Shape::kPairs>;
  auto add = [&](const HopperItem& item, const Walk& tile) {
    const uint64_t policy = plan.beyond_cache ? ptx::tma_evict_last() : ptx::tma_evict_normal();
    const int (&at)[kMaxRank] = tile.at;
    bool any = true;  // a tile that nobody sees may lie anywhere
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a)
      any = any && at[a] >= 0 && at[a] < problem.axes[a].query_count;
    auto add_part = [&](int round, int part) {
      ptx::mbarrier_wait(ptx::shared_address(&control.full_sums[sums_place.stage][part]),
                         sums_place.parity);
      const uint32_t from =
          base + Shape::kSumAt + (sums_place.stage * Shape::kSumParts + part) * Shape::kSumBytes;
#pragma unroll
      for (int panel = 0; panel < Shape::sum_panels(round); ++panel) {
        const int column = Shape::sum_column(round, part) + panel * Shape::kSumElements;
        if (any && column < problem.head_dim)
          ptx::tma_reduce_add(&arguments.sums, from + panel * Shape::kSumPanelBytes, policy, column,
                              at[2], at[1], at[0], item.entry * problem.heads + tile.head);
      }
      ptx::tma_store_commit();
    };
    auto free_part = [&](int part) {
      ptx::mbarrier_arrive(ptx::shared_address(&control.empty_sums[sums_place.stage][part]));
    };
#pragma unroll
    for (int round = 0; round < Shape::kSumRounds; ++round) {
      add_part(round, 0);
      if constexpr (Shape::kSumParts == 2) {
        add_part(round, 1);
        ptx::tma_store_wait_read<1>();
        free_part(0);
      }
      ptx::tma_store_wait_read<0>();
      free_part(Shape::kSumParts - 1);
      sums_place.next();
    }
  };

  bool more = true;
  for (int number = 0;; ++number) {
    if (more) more = describe(number);
    // As many as can be known are, before the first of them begins.
    if (number + 1 < kItemsKnown) continue;
    const HopperItem& item = control.items[(number + 1) % kItemsKnown];
    if (item.last) break;
    if (Shape::kSums && ptx::lane() == 0) {
      const int total = item.total;
      Walk tile(item, plan, problem);
      for (int i = 0; i < total; ++i) {
        add(item, tile);
        tile.next(item, plan, problem);
      }
    }
    __syncwarp();
  }
}

}  // namespace jax_na::cuda
