// A masker of the Hopper kernel: one warp for each warpgroup, which finds what the warpgroup sees
// of every tile. It runs as far ahead as the copies of the keys do.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/shared.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"

namespace jax_na::cuda {

// A lane finds the words with t = lane % 4 of rows lane / 4, lane / 4 + 8 and so on.
constexpr int kRowsPerLane = kWarpgroupRows / 8;

template <typename Shape>
__device__ inline void find_masks(const HopperArguments& arguments, HopperControl<Shape>& control,
                                  int warpgroup) {
  const HopperPlan& plan = arguments.plan;
  const int lane = threadIdx.x % 32, t = lane % 4, keys = plan.column_count();
  RingPlace<Shape::kStages> key_place;
  RingPlace<kItemsKnown> item_place;
  const uint32_t* places = control.places[warpgroup] + lane / 4;
  uint32_t line[kRowsPerLane];  // what the z and y of a tile leave
#pragma unroll
  for (int i = 0; i < kRowsPerLane; ++i) line[i] = 0;
  bool line_sure = false;

  for (;; item_place.next()) {
    const int slot = item_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    const int windows = item.windows, total = item.total;

    // Takes from `word` the columns that an axis hides; true where it hides none from any row.
    auto look_along = [&](int a, int tile, uint32_t (&word)[kRowsPerLane]) {
      const AxisItem& axis = item.axis[a];
      const int extent = plan.columns[a];
      if (tile_is_sure(axis, warpgroup, tile, extent)) return true;
      const int origin = axis.origin(tile, extent), limit = axis.limit(tile);
      const Interval* seen = control.seen[slot] + seen_begin(plan, a);
      const uint32_t (*below)[4] = control.below + below_begin(plan, a);
#pragma unroll
      for (int i = 0; i < kRowsPerLane; ++i) {
        const Interval mine = seen[place_along(places[8 * i], a)];
        const int low = min(max(mine.begin - origin, 0), extent);
        const int high = min(max(min(mine.end, limit) - origin, 0), extent);
        word[i] &= below[high][t] & ~below[low][t];
      }
      return false;
    };

    int z = 0, y = 0, x = 0;
    for (int tile = 0; tile < total; ++tile) {
      uint32_t word[kRowsPerLane];
      bool sure = keys == Shape::kBlock;
      if (tile >= windows) {
        const int count = arguments.problem.additional - (tile - windows) * keys;
        sure = sure && count >= keys;
        const uint32_t columns = first_columns(min(count, keys), t);
#pragma unroll
        for (int i = 0; i < kRowsPerLane; ++i) word[i] = columns;
      } else {
        if (x == 0) {
          const uint32_t all = control.below[plan.columns[0]][t];  // columns of a key
#pragma unroll
          for (int i = 0; i < kRowsPerLane; ++i) line[i] = all;
          line_sure = look_along(0, z, line);
          line_sure = look_along(1, y, line) && line_sure;
        }
#pragma unroll
        for (int i = 0; i < kRowsPerLane; ++i) word[i] = line[i];
        sure = look_along(2, x, word) && line_sure && sure;
        if (++x == item.axis[2].tiles) {
          x = 0;
          if (++y == item.axis[1].tiles) {
            y = 0;
            ++z;
          }
        }
      }
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_key[key_place.stage]),
                         key_place.parity ^ 1);
      TileMask& mask = control.masks[key_place.stage][warpgroup];
      if (!sure) {
#pragma unroll
        for (int i = 0; i < kRowsPerLane; ++i) mask.word[lane / 4 + 8 * i][t] = word[i];
      }
      TileMask::Seen seen = sure ? TileMask::kEverything : TileMask::kSomething;
      if (Shape::kResident > 1 && !sure) {
        uint32_t any = 0;
#pragma unroll
        for (int i = 0; i < kRowsPerLane; ++i) any |= word[i];
        if (!__any_sync(~0u, any != 0)) seen = TileMask::kNothing;
      }
      if (lane == 0) mask.seen = seen;
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&control.full_key[key_place.stage]));
      key_place.next();
    }
  }
}

}  // namespace jax_na::cuda
