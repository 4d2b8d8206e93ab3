// A masker of the Hopper backward kernel: one warp for each warpgroup, which finds which queries of
// every tile see the warpgroup's keys, and fetches the log-sum-exps and deltas of half of them. It
// runs as far ahead as the copies of the queries do.
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
__device__ inline void find_masks(const HopperBackwardArguments& arguments,
                                  HopperBackwardControl<Shape>& control, int masker) {
  static_assert(Shape::kBlock == 32 * Shape::kWarpgroups, "a lane fetches for one query");
  static_assert(!Shape::kPairs, "all warpgroups see a tile");
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  // A lane finds the words with t = lane % 4 of rows lane / 4, lane / 4 + 8 and so on, where all
  // warpgroups have the same rows of half of them.
  constexpr int kRows = Shape::kRowGroups * kWarpgroupRows / Shape::kWarpgroups;
  constexpr int kLaneRows = kRows / 8;
  const int warpgroup = Shape::kRowGroups > 1 ? masker : 0;  // by its rows
  const int lane = threadIdx.x % 32, t = lane % 4;
  const int own_row = lane / 4 + (Shape::kRowGroups > 1 ? 0 : masker * kRows);
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
  // Queries that there are not have no weights.
  auto fetch = [&](const HopperItem& item, const TileWalk<false>& tile) {
    const int x = tile.coordinate(item, plan, problem, 2) + behind_x;
    const int y = tile.coordinate(item, plan, problem, 1) + behind_y;
    const int z = tile.coordinate(item, plan, problem, 0) + behind_z;
    const int x_count = problem.axes[2].query_count, y_count = problem.axes[1].query_count;
    const int z_count = problem.axes[0].query_count;
    const bool inside = min(x, min(y, z)) >= 0 && x < x_count && y < y_count && z < z_count;
    if (!exists || !inside) return make_float2(INFINITY, 0.f);
    const int64_t head = static_cast<int64_t>(item.entry) * problem.heads + tile.head;
    const int64_t* steps = arguments.statistics_steps;
    return arguments
        .statistics[head * arguments.statistics_head + z * steps[0] + y * steps[1] + x * steps[2]];
  };

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
    TileWalk<false> tile(item, plan, problem);
    // Takes from `word` the columns that an axis hides, row by row of what this lane finds; true
    // where it hides none from any row. All rows at a time, since each is a chain of look-ups.
    auto look_along = [&](int a, int tile, uint32_t (&word)[kLaneRows]) {
      const AxisItem& axis = item.axis[a];
      const int extent = plan.columns[a];
      if (additional >= 0 || tile_is_sure(axis, warpgroup, tile, extent)) return true;
      const int origin = axis.origin(tile, extent), limit = axis.limit(tile);
      const Interval* seen = control.seen[slot] + seen_begin(plan, a);
      const uint32_t (*below)[4] = control.below + below_begin(plan, a);
#pragma unroll
      for (int k = 0; k < kLaneRows; ++k) {
        const Interval mine = seen[place_along(places[8 * k], a)];
        const int low = min(max(mine.begin - origin, 0), extent);
        const int high = min(max(min(mine.end, limit) - origin, 0), extent);
        word[k] &= below[high][t] & ~below[low][t];
      }
      return false;
    };

    for (int i = 0; i < total; ++i) {
      const float2 statistics = fetch(item, tile);
      uint32_t word[kLaneRows];
      const uint32_t all = control.below[plan.columns[0]][t];
#pragma unroll
      for (int k = 0; k < kLaneRows; ++k) word[k] = own_row + 8 * k < rows ? all : 0;
      bool sure = rows == kWarpgroupRows;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) sure = look_along(a, tile.along(item, a), word) && sure;

      const int stage = query_place.stage;
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_query[stage]), query_place.parity ^ 1);
      TileMask& mask = control.masks[stage][warpgroup];
      if (!sure) {
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
