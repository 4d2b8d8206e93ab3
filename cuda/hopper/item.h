// One axis of an item: which queries it has, which keys they see, and how tiles cover those.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

// Keys are counted from the first one that is met. A periodic axis may be met across its seam,
// behind which tiles begin anew: no box of the copy engine goes around.
struct AxisItem {
  Rule rule;
  int first;       // position of the first query
  int queries;     // of the box that the tensor holds
  int query;       // where the first one is in the tensor
  Interval met;    // positions of keys that some query sees and the tensor holds
  int tiles;       // that cover them
  int seam;        // keys before the seam
  int seam_tiles;  // tiles before it
  int key;         // where the first key is in the tensor, and the first one behind the seam
  int seam_key;
  Interval sure[kMostWarpgroups];  // keys that every query of a warpgroup sees

  JAX_NA_INLINE bool behind_seam(int tile) const { return tile >= seam_tiles; }
  // The first key of a tile, and the one that ends the tile's part of the axis.
  JAX_NA_INLINE int origin(int tile, int keys) const {
    return behind_seam(tile) ? seam + (tile - seam_tiles) * keys : tile * keys;
  }
  JAX_NA_INLINE int limit(int tile) const { return behind_seam(tile) ? met.size() : seam; }
  // Where a tile begins in the tensor.
  JAX_NA_INLINE int coordinate(int tile, int keys, int dilation) const {
    return behind_seam(tile) ? seam_key + (tile - seam_tiles) * keys * dilation
                             : key + tile * keys * dilation;
  }
  // The keys that the query at `place` of the box sees.
  JAX_NA_INLINE Interval seen(int place) const {
    if (place >= queries) return {0, 0};
    const Interval window = rule.window_of(first + place).clipped(met);
    return {window.begin - met.begin, window.end - met.begin};
  }
};

// The box of queries that begins at the `begin`th of the dilation group `group`.
JAX_NA_INLINE AxisItem axis_item(const Axis& axis, const HopperPlan& plan, int which, int group,
                                 int begin) {
  constexpr int kEverything = 1 << 30;
  const Held queries = axis.queries(group), keys = axis.keys(group);
  AxisItem item{};
  item.rule = axis.rule(group);
  const int end = min_of(begin + plan.box(which), queries.count);
  item.first = queries.begin + begin;
  item.queries = max_of(end - begin, 0);
  if (item.queries == 0) return item;
  item.query = queries.token(item.first);
  item.met = item.rule.window_union({item.first, item.first + item.queries});
  if (!axis.modular()) item.met = item.met.clipped(keys.positions());
  const int met = item.met.size();
  const int extent = plan.keys[which];
  item.seam = met;
  int from = item.met.begin;
  if (axis.modular()) {
    const int period = floor_div(from, item.rule.length) * item.rule.length;
    item.seam = min_of(period + item.rule.length - from, met);
    from -= period;
  }
  item.key = keys.token(from);
  item.seam_key = keys.token(keys.begin);
  item.seam_tiles = (item.seam + extent - 1) / extent;
  item.tiles = item.seam_tiles + (met - item.seam + extent - 1) / extent;
  // Tiles that end with the part of the axis they are in hold zeros beyond it.
  for (int w = 0; w < kMostWarpgroups; ++w) {
    const int low = min_of(plan.offset(w, which), item.queries);
    const int high = min_of(low + plan.rows[which], item.queries);
    // What a warpgroup without queries makes of its tiles is never stored.
    item.sure[w] = {-kEverything, kEverything};
    if (high > low) {
      const Interval sure =
          item.rule.window_intersection({item.first + low, item.first + high}).clipped(item.met);
      item.sure[w] = {sure.begin - item.met.begin, sure.end - item.met.begin};
    }
  }
  return item;
}

// Whether every query of a warpgroup sees every key of a tile, on this axis.
JAX_NA_INLINE bool tile_is_sure(const AxisItem& item, int warpgroup, int tile, int keys) {
  const int origin = item.origin(tile, keys);
  const Interval sure = item.sure[warpgroup];
  return origin >= sure.begin && origin + keys <= sure.end &&
         (origin + keys <= item.limit(tile) || sure.end > item.met.size());
}

// An item, as its producer describes it to its consumers.
struct HopperItem {
  AxisItem axis[kMaxRank];
  int entry;
  int head;
  int windows;  // tiles of the window; lines of additional keys follow
  int total;
  bool last;  // no item, but the end of them
};

}  // namespace jax_na::cuda
