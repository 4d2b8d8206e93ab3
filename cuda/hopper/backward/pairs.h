// Tiles of which only one warpgroup sees something, in pairs: one for each warpgroup, at a time.
//
// Where the warpgroups' keys lie side by side along x, the first tiles of a line are seen by none
// of the second one's keys and the last ones by none of the first one's. In the order of a line the
// first such tile comes next to the first of those at the end, and so on: both are a single step,
// in which each warpgroup has a tile to itself.
#pragma once

#include "cuda/hopper/item.h"

namespace jax_na::cuda {

// How many pairs a line of tiles along x has. What keys see begins and ends no earlier than what
// the ones before them do.
JAX_NA_INLINE int tile_pairs(const AxisItem& x, const HopperPlan& plan) {
  const int half = plan.rows[2], extent = plan.columns[2], columns = x.met.size();
  if (plan.warpgroups[2] != 2 || x.rows <= half) return 0;
  auto column = [&](int position) { return min_of(max_of(position - x.met.begin, 0), columns); };
  const Interval between = with_rule(x.rule, [&](const Rule& by) {
    return Interval{by.queries_of(x.first + half).begin, by.queries_of(x.first + half - 1).end};
  });
  const int first_end = column(between.end), second_begin = column(between.begin);
  const int before_second = second_begin < x.seam ? second_begin / extent
                                                  : x.seam_tiles + (second_begin - x.seam) / extent;
  const int up_to_first = first_end <= x.seam ? ceil_div(first_end, extent)
                                              : x.seam_tiles + ceil_div(first_end - x.seam, extent);
  return min_of(min_of(before_second, x.tiles - up_to_first), x.tiles / 2);
}

// The tile at a place in the order of a line.
JAX_NA_INLINE int paired_tile(int place, int tiles, int pairs) {
  if (place >= 2 * pairs) return place - pairs;
  return place % 2 == 0 ? place / 2 : tiles - pairs + place / 2;
}

// Whether a warpgroup has nothing to do with the tile at a place.
JAX_NA_INLINE bool passes_over(int place, int pairs, int warpgroup) {
  return place < 2 * pairs && place % 2 != warpgroup;
}

// A step of a line: one tile for all warpgroups, or two of which each has its own. Tiles are
// counted in all items.
struct PairedStep {
  uint32_t first = 0;  // of the tiles
  bool pair = false;

  JAX_NA_INLINE uint32_t own(int warpgroup) const { return first + (pair ? warpgroup : 0); }
  JAX_NA_INLINE uint32_t other(int warpgroup) const { return first + 1 - warpgroup; }
  JAX_NA_INLINE int tiles() const { return pair ? 2 : 1; }
};

// The steps of an item.
struct PairedSteps {
  int tiles = 0, pairs = 0;  // of a line
  int place = 0;             // of the next step, in its line

  JAX_NA_INLINE PairedStep next(uint32_t first) {
    const PairedStep step = {first, place < 2 * pairs};
    place += step.tiles();
    if (place == tiles) place = 0;
    return step;
  }
};

}  // namespace jax_na::cuda
