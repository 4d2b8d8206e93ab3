// A masker of the Hopper backward kernel that finds once what the tiles of a line, along x, have in
// common. Look-ups in shared memory wait for the operands of products, so that those of masker.h
// took longer than the tiles of 64 features did.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/tile_walk.h"
#include "cuda/hopper/mask.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ inline void find_masks_by_line(const HopperBackwardArguments& arguments,
                                          HopperBackwardControl<Shape>& control, int masker) {
  static_assert(Shape::kBlock == 32 * Shape::kWarpgroups, "a lane fetches for one query");
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  static_assert(Shape::kRowGroups == Shape::kWarpgroups, "a masker for the rows of each");
  // A lane finds the words with t = lane % 4 of rows lane / 4, lane / 4 + 8 and so on.
  constexpr int kLaneRows = kWarpgroupRows / 8;
  // Whether there are registers for what z and y leave of the words of a line.
  constexpr bool kKeepLine = Shape::kOtherRegisters >= 56;
  const int warpgroup = masker;
  const int lane = threadIdx.x % 32, t = lane % 4, own_row = lane / 4;
  RingPlace<Shape::kQueryStages> query_place;
  RingPlace<kItemsKnown> item_place;
  for (int k = 0; k < kLaneRows; ++k)
    control.places[warpgroup][own_row + 8 * k] = row_places(plan, warpgroup, own_row + 8 * k);
  __syncwarp();

  const uint32_t* places = control.places[warpgroup] + own_row;
  // The query whose statistics this lane fetches: by how far it lies behind the tile's first one.
  const int column = 32 * masker + lane;
  const bool exists = column < plan.column_count();
  const int behind_x = column % plan.columns[2] * problem.axes[2].dilation;
  const int behind_y = column / plan.columns[2] % plan.columns[1] * problem.axes[1].dilation;
  const int behind_z = column / plan.columns[2] / plan.columns[1] * problem.axes[0].dilation;
  for (;; item_place.next()) {
    const int slot = item_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    const int total = item.total, additional = control.additional[slot];
    // Of the warpgroup, those that there are.
    const int rows =
        additional < 0
            ? plan.row_count()
            : min(plan.row_count(), problem.additional - additional - warpgroup * plan.row_count());
    // Takes from `word` the columns that an axis hides, row by row of what this lane finds, in a
    // tile with its first column at `origin` and the last before `limit`. All rows at a time, since
    // each is a chain of look-ups.
    auto hide = [&](int a, int origin, int limit, uint32_t (&word)[kLaneRows]) {
      const int extent = plan.columns[a];
      const Interval* seen = control.seen[slot] + seen_begin(plan, a);
      const uint32_t (*below)[4] = control.below + below_begin(plan, a);
#pragma unroll
      for (int k = 0; k < kLaneRows; ++k) {
        const Interval mine = seen[place_along(places[8 * k], a)];
        const int low = min(max(mine.begin - origin, 0), extent);
        const int high = min(max(min(mine.end, limit) - origin, 0), extent);
        word[k] &= below[high][t] & ~below[low][t];
      }
    };

    // Of a line: what z and y leave of the words, and where the statistics of its queries are.
    const AxisItem& axis = item.axis[2];
    const int extent = plan.columns[2];
    const int seam = axis.seam;
    const Interval sure_x = axis.sure[warpgroup];
    LineWalk<Shape::kPairs> tile(item, plan, problem);
    uint32_t line[kLaneRows];
    bool line_sure = false, line_inside = false;
    const float2* line_statistics = nullptr;
    auto is_sure = [&](int a) {
      return additional >= 0 ||
             tile_is_sure(item.axis[a], warpgroup, tile.along(item, a), plan.columns[a]);
    };
    auto find_line = [&](uint32_t (&word)[kLaneRows]) {
      const uint32_t all = control.below[plan.columns[0]][t];
#pragma unroll
      for (int k = 0; k < kLaneRows; ++k) word[k] = own_row + 8 * k < rows ? all : 0;
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        if (!is_sure(a))
          hide(a, item.axis[a].origin(tile.along(item, a), plan.columns[a]),
               item.axis[a].limit(tile.along(item, a)), word);
      }
    };
    auto place_line = [&] {
      const int y = tile.at[1] + behind_y;
      const int z = tile.at[0] + behind_z;
      line_inside = exists && min(y, z) >= 0 && y < problem.axes[1].query_count &&
                    z < problem.axes[0].query_count;
      const int64_t head = static_cast<int64_t>(item.entry) * problem.heads + tile.head;
      const int64_t* steps = arguments.statistics_steps;
      line_statistics =
          arguments.statistics + head * arguments.statistics_head + z * steps[0] + y * steps[1];
    };

    for (int i = 0; i < total; ++i) {
      const bool begins = tile.place == 0;
      if (begins) place_line();
      // Queries that there are not have no weights.
      float2 statistics = make_float2(INFINITY, 0.f);
      const int token = tile.at[2] + behind_x;
      if (line_inside && token >= 0 && token < problem.axes[2].query_count)
        statistics = line_statistics[token * arguments.statistics_steps[2]];
      if (begins) {
        line_sure = rows == kWarpgroupRows && is_sure(0) && is_sure(1);
        if constexpr (kKeepLine) find_line(line);
      }
      const bool behind_seam = tile.x >= tile.seam_tiles;
      const int origin = behind_seam ? axis.origin(tile.x, extent) : tile.x * extent;
      const int limit = behind_seam ? axis.met.size() : seam;
      const bool sure_along =
          additional >= 0 || (origin >= sure_x.begin && origin + extent <= min(sure_x.end, limit));
      const bool sure = line_sure && sure_along;
      const bool passed_over = tile.passed_over(item, warpgroup);
      uint32_t word[kLaneRows];
      if (!sure && !passed_over) {
        if constexpr (kKeepLine) {
#pragma unroll
          for (int k = 0; k < kLaneRows; ++k) word[k] = line[k];
        } else {
          find_line(word);
        }
        if (!sure_along) hide(2, origin, limit, word);
      }

      const int stage = query_place.stage;
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_query[stage]), query_place.parity ^ 1);
      TileMask& mask = control.masks[stage][warpgroup];
      if (!sure && !passed_over) {
#pragma unroll
        for (int k = 0; k < kLaneRows; ++k) mask.word[own_row + 8 * k][t] = word[k];
      }
      if (lane == 0) mask.seen = sure ? TileMask::kEverything : TileMask::kSomething;
      control.lse[stage][column] = statistics.x;
      control.delta[stage][column] = statistics.y;
      ptx::mbarrier_arrive(ptx::shared_address(&control.full_query[stage]));
      query_place.next();

      tile.next(item, plan, problem);
    }
    ptx::mbarrier_arrive(ptx::shared_address(&control.done[slot]));
  }
}

}  // namespace jax_na::cuda
