// A masker of the Hopper kernel: one warp for each warpgroup, which finds what the warpgroup sees
// of every tile. It runs as far ahead as the copies of the keys do.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/shared.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"

namespace jax_na::cuda {

// One axis of a tile.
struct TileAxis {
  const Interval* seen;
  const uint32_t (*below)[4];
  int origin, limit, extent;

  template <typename Control>
  __device__ __forceinline__ TileAxis(const HopperPlan& plan, const Control& control, int slot,
                                      int a, int tile)
      : seen(control.seen[slot] + seen_begin(plan, a)),
        below(control.below + below_begin(plan, a)),
        origin(control.items[slot].axis[a].origin(tile, plan.columns[a])),
        limit(control.items[slot].axis[a].limit(tile)),
        extent(plan.columns[a]) {}
  // Bits of the columns that the row at `place` of the box sees.
  __device__ __forceinline__ uint32_t columns(int place, int t) const {
    const Interval mine = seen[place];
    const int low = min(max(mine.begin - origin, 0), extent);
    const int high = min(max(min(mine.end, limit) - origin, 0), extent);
    return below[high][t] & ~below[low][t];
  }
};

template <typename Shape>
__device__ inline void find_masks(const HopperArguments& arguments, HopperControl<Shape>& control,
                                  int warpgroup) {
  const HopperPlan& plan = arguments.plan;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, keys = plan.column_count();
  const int lines = plan.rows[0] * plan.rows[1], places = plan.rows[2];
  uint32_t (*line)[4] = control.lines[warpgroup];  // what the z and y of a tile leave
  RingPlace<Shape::kStages> key_place;
  RingPlace<kItemsKnown> item_place;
  bool line_sure = false, line_met = false;

  for (;; item_place.next()) {
    const int slot = item_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    const int windows = item.windows, total = item.total;

    auto sure_along = [&](int a, int tile) {
      return tile_is_sure(item.axis[a], warpgroup, tile, plan.columns[a]);
    };
    // Writes find(at), words of `count` lines or places, one after the other to `to`. Returns
    // whether any of them has a bit. A lane has those with t of every eighth one, and finds some at
    // once, whose latencies overlap; there are registers for few.
    auto write_words = [&](int count, uint32_t (*to)[4], auto find) {
      uint32_t any = 0;
      auto write_some = [&](auto some, int from) {
        uint32_t word[decltype(some)::value];
#pragma unroll
        for (int i = 0; i < some; ++i) word[i] = find(min(from + 8 * i, count - 1));
#pragma unroll
        for (int i = 0; i < some; ++i) {
          any |= word[i];
          if (from + 8 * i < count) to[from + 8 * i][t] = word[i];
        }
      };
      write_some(std::integral_constant<int, 2>(), g);
#pragma unroll 1
      for (int first = 16; first < count; first += 24)
        write_some(std::integral_constant<int, 3>(), first + g);
      return __any_sync(~0u, any != 0) != 0;
    };

    int z = first_tile<Shape>(item, 0), y = first_tile<Shape>(item, 1),
        x = first_tile<Shape>(item, 2);
    for (int tile = 0; tile < total; ++tile) {
      bool place_sure = true;
      if (tile >= windows) {
        const int count = arguments.problem.additional - (tile - windows) * keys;
        const uint32_t columns = first_columns(min(count, keys), t);
        write_words(lines, line, [&](int) { return columns; });
        line_sure = count >= keys;
        line_met = true;
      } else {
        if (x == 0 || tile == 0) {
          const TileAxis along_z(plan, control, slot, 0, z), along_y(plan, control, slot, 1, y);
          line_met = write_words(lines, line, [&](int at) {
            const uint32_t place = control.places[warpgroup][at * places];
            return along_z.columns(place_along(place, 0), t) &
                   along_y.columns(place_along(place, 1), t);
          });
          line_sure = sure_along(0, z) && sure_along(1, y);
        }
        place_sure = sure_along(2, x);
      }
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_key[key_place.stage]),
                         key_place.parity ^ 1);
      KeyMask& mask = control.masks[key_place.stage][warpgroup];
      TileMask::Seen seen = TileMask::kEverything;
      if (!(place_sure && line_sure && keys == Shape::kBlock)) {
        // A lane reads the words that it wrote, and no others.
        for (int at = g; at < lines; at += 8) mask.word[at][t] = line[at][t];
        const TileAxis along_x(plan, control, slot, 2, x);
        const bool place_met = write_words(places, mask.word + lines, [&](int at) {
          return place_sure ? ~0u : along_x.columns(plan.offset(warpgroup, 2) + at, t);
        });
        // A tile is a box: some row sees some of it where some see it on every axis.
        seen = Shape::kResident == 1 || (place_met && line_met) ? TileMask::kSomething
                                                                : TileMask::kNothing;
      }
      if (lane == 0) mask.seen = seen;
      ptx::mbarrier_arrive(ptx::shared_address(&control.full_key[key_place.stage]));
      key_place.next();
      if (++x == item.axis[2].tiles) {
        x = 0;
        if (++y == item.axis[1].tiles) {
          y = 0;
          if (++z == item.axis[0].tiles) z = 0;
        }
      }
    }
    ptx::mbarrier_arrive(ptx::shared_address(&control.done[slot]));
  }
}

}  // namespace jax_na::cuda
