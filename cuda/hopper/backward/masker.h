// A masker of the Hopper backward kernel: one warp for each warpgroup, which finds which queries of
// every tile see the warpgroup's keys, and fetches the log-sum-exps and deltas of half of them. It
// runs as far ahead as the copies of the queries do.
//
// What the tiles of a line, along x, have in common is found once: look-ups in shared memory wait
// for the operands of products, and those of a tile took longer than its products did.
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

// Fills the table of where the words of a row are in a mask, by all threads of the block: that of
// its line in the lower half, that of its place in the upper one. Rows that there are not have a
// word of their own that stays 0, behind all others.
template <typename Shape>
__device__ inline void fill_row_words(const HopperPlan& plan,
                                      HopperBackwardControl<Shape>& control) {
  constexpr int kWord = sizeof(RowMask::word[0]), kNone = kWarpgroupRows;
  const int lines = plan.rows[0] * plan.rows[1], rows = plan.row_count();
  for (int row = threadIdx.x; row < kWarpgroupRows; row += Shape::kThreads) {
    const int line = row / plan.rows[2], place = lines + row % plan.rows[2];
    control.row_words[0][row] = row < rows ? line * kWord | place * kWord << 16 : kNone * kWord;
    // Additional keys are no box, but a row each.
    control.row_words[1][row] = row < rows ? (1 + row) * kWord << 16 : kNone * kWord;
  }
  if (rows == kWarpgroupRows) return;
  constexpr int kMasks = Shape::kQueryStages * Shape::kRowGroups;
  RowMask* masks = control.masks[0];
  for (int i = threadIdx.x; i < 4 * kMasks; i += Shape::kThreads)
    masks[i / 4].word[kNone][i % 4] = 0;
}

template <typename Shape>
__device__ inline void find_masks(const HopperBackwardArguments& arguments,
                                  HopperBackwardControl<Shape>& control, int masker) {
  static_assert(Shape::kBlock == 32 * Shape::kWarpgroups, "a lane fetches for one query");
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  // A lane finds words with t = lane % 4. Where all warpgroups have the same rows, each masker
  // finds a part of their words.
  constexpr int kMaskers = Shape::kWarpgroups / Shape::kRowGroups;
  const int warpgroup = Shape::kRowGroups > 1 ? masker : 0;  // by its rows
  const int lane = threadIdx.x % 32, t = lane % 4;
  const int first_word = lane / 4 + (Shape::kRowGroups > 1 ? 0 : 8 * masker);
  const uint32_t all = control.below[plan.columns[0]][t];
  uint32_t (*line_words)[4] = control.lines[warpgroup];  // what the z and y of a line leave
  RingPlace<Shape::kQueryStages> query_place;
  RingPlace<kItemsKnown> item_place;
  // The query whose statistics this lane fetches: by how far it lies behind the tile's first one.
  const int column = 32 * masker + lane;
  const int behind_x = column % plan.columns[2] * problem.axes[2].dilation;
  const int behind_y = column / plan.columns[2] % plan.columns[1] * problem.axes[1].dilation;
  // Outside of every tensor where the tile has no such query.
  const int behind_z = column < plan.column_count()
                           ? column / plan.columns[2] / plan.columns[1] * problem.axes[0].dilation
                           : 1 << 28;

  for (;; item_place.next()) {
    const int slot = item_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    const int total = item.total, additional = control.additional[slot];
    const bool own = additional < 0;
    const int lines = own ? plan.rows[0] * plan.rows[1] : 1;
    const int places = own ? plan.rows[2] : plan.row_count();
    // Of the warpgroup, those that there are.
    const int rows =
        own ? plan.row_count()
            : min(plan.row_count(), problem.additional - additional - warpgroup * plan.row_count());
    // The columns that rows at `place` of the warpgroup see along an axis, in a tile with its first
    // one at `origin` and the last before `limit`.
    auto columns_of = [&](int a, int place, int origin, int limit) {
      const int columns = plan.columns[a];
      const Interval mine =
          control.seen[slot][seen_begin(plan, a) + plan.offset(warpgroup, a) + place];
      const int low = min(max(mine.begin - origin, 0), columns);
      const int high = min(max(min(mine.end, limit) - origin, 0), columns);
      const uint32_t (*below)[4] = control.below + below_begin(plan, a);
      return below[high][t] & ~below[low][t];
    };
    // Calls for each word of `count` that this lane has.
    auto for_words = [&](int count, auto find) {
#pragma unroll 1
      for (int at = first_word; at < count; at += 8 * kMaskers) find(at);
    };

    const AxisItem& axis = item.axis[2];
    const int extent = plan.columns[2];
    const Interval& sure_x = axis.sure[warpgroup];
    TileWalk<Shape::kPairs> tile(item, plan, problem);
    bool line_sure = false, line_inside = false;
    const float2* line_statistics = nullptr;
    auto is_sure = [&](int a) {
      return !own || tile_is_sure(item.axis[a], warpgroup, tile.along(item, a), plan.columns[a]);
    };
    auto find_line = [&] {
      line_sure = rows == kWarpgroupRows && is_sure(0) && is_sure(1);
      if (line_sure && own) {
        for_words(lines, [&](int at) { line_words[at][t] = all; });
      } else if (own) {
        const int z_origin = item.axis[0].origin(tile.z, plan.columns[0]);
        const int y_origin = item.axis[1].origin(tile.y, plan.columns[1]);
        const int z_limit = item.axis[0].limit(tile.z), y_limit = item.axis[1].limit(tile.y);
        for_words(lines, [&](int at) {
          const int z = at / plan.rows[1], y = at - z * plan.rows[1];
          line_words[at][t] =
              columns_of(0, z, z_origin, z_limit) & columns_of(1, y, y_origin, y_limit);
        });
      }
    };
    // Queries that there are not have no weights.
    auto fetch = [&] {
      if (tile.place == 0) {
        const int y = tile.coordinate(item, plan, problem, 1) + behind_y;
        const int z = tile.coordinate(item, plan, problem, 0) + behind_z;
        line_inside =
            min(y, z) >= 0 && y < problem.axes[1].query_count && z < problem.axes[0].query_count;
        const int64_t head = static_cast<int64_t>(item.entry) * problem.heads + tile.head;
        const int64_t* steps = arguments.statistics_steps;
        line_statistics =
            arguments.statistics + head * arguments.statistics_head + z * steps[0] + y * steps[1];
      }
      const int token = tile.coordinate(item, plan, problem, 2) + behind_x;
      if (line_inside && token >= 0 && token < problem.axes[2].query_count)
        return line_statistics[token * arguments.statistics_steps[2]];
      return make_float2(INFINITY, 0.f);
    };

    float2 statistics = fetch();
    for (int i = 0; i < total; ++i) {
      if (tile.place == 0) find_line();
      const int x = tile.along(item, 2), origin = axis.origin(x, extent), limit = axis.limit(x);
      const bool sure_along =
          !own || (origin >= sure_x.begin && origin + extent <= min(sure_x.end, limit));
      const bool sure = line_sure && sure_along;
      const bool hides = !sure && !tile.passed_over(item, warpgroup);
      // Those of the next tile are on their way while this one is written.
      tile.next(item, plan, problem);
      float2 upcoming = statistics;
      if (i + 1 < total) upcoming = fetch();

      const int stage = query_place.stage;
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_query[stage]), query_place.parity ^ 1);
      RowMask& mask = control.masks[stage][warpgroup];
      if (hides && own) {
        for_words(lines, [&](int at) { mask.word[at][t] = line_words[at][t]; });
        for_words(places, [&](int at) {
          mask.word[lines + at][t] = sure_along ? all : columns_of(2, at, origin, limit);
        });
      } else if (hides) {
        for_words(1, [&](int at) { mask.word[at][t] = all; });
        for_words(places, [&](int at) { mask.word[1 + at][t] = at < rows ? all : 0; });
      }
      if (lane == 0) mask.seen = sure ? TileMask::kEverything : TileMask::kSomething;
      control.lse[stage][column] = statistics.x;
      control.delta[stage][column] = statistics.y;
      ptx::mbarrier_arrive(ptx::shared_address(&control.full_query[stage]));
      query_place.next();
      statistics = upcoming;
    }
    ptx::mbarrier_arrive(ptx::shared_address(&control.done[slot]));
  }
}

}  // namespace jax_na::cuda
