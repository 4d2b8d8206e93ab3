// One axis of an item: which rows it has, which columns they meet, and how tiles cover those.
//
// In the forward pass rows are queries and columns the keys that they see; where the gradients of
// the keys are found, rows are keys and columns the queries that see them.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

// Columns are counted from the first one that is met. A periodic axis may be met across its seam,
// behind which tiles begin anew: no box of the copy engine goes around.
struct AxisItem {
  Rule rule;
  bool rows_are_keys;
  int first;       // position of the first row
  int rows;        // of the box that the tensor holds
  int row;         // where the first one is in the tensor
  Interval met;    // positions of columns that some row meets and the tensor holds
  int tiles;       // that cover them
  int seam;        // columns before the seam
  int seam_tiles;  // tiles before it
  int column;      // where the first column is in the tensor, and the first one behind the seam
  int seam_column;
  Interval sure[kMostWarpgroups];  // columns that every row of a warpgroup meets

  JAX_NA_INLINE bool behind_seam(int tile) const { return tile >= seam_tiles; }
  // The first column of a tile, and the one that ends the tile's part of the axis.
  JAX_NA_INLINE int origin(int tile, int extent) const {
    return behind_seam(tile) ? seam + (tile - seam_tiles) * extent : tile * extent;
  }
  JAX_NA_INLINE int limit(int tile) const { return behind_seam(tile) ? met.size() : seam; }
  // Where a tile begins in the tensor.
  JAX_NA_INLINE int coordinate(int tile, int extent, int dilation) const {
    return behind_seam(tile) ? seam_column + (tile - seam_tiles) * extent * dilation
                             : column + tile * extent * dilation;
  }
  // The columns that the row at `place` of the box meets.
  JAX_NA_INLINE Interval seen(int place) const {
    if (place >= rows) return {0, 0};
    const int at = first + place;
    const Interval all = (rows_are_keys ? rule.queries_of(at) : rule.window_of(at)).clipped(met);
    return {all.begin - met.begin, all.end - met.begin};
  }
};

// The box of rows that begins at the `begin`th of the dilation group `group`.
JAX_NA_INLINE AxisItem axis_item(const Axis& axis, const HopperPlan& plan, int which, int group,
                                 int begin) {
  constexpr int kEverything = 1 << 30;
  const bool keys = plan.rows_are_keys;
  const Held rows = keys ? axis.keys(group) : axis.queries(group);
  const Held columns = keys ? axis.queries(group) : axis.keys(group);
  AxisItem item{};
  item.rule = axis.rule(group);
  item.rows_are_keys = keys;
  const int end = min_of(begin + plan.box(which), rows.count);
  item.first = rows.begin + begin;
  item.rows = max_of(end - begin, 0);
  if (item.rows == 0) return item;
  item.row = rows.token(item.first);
  const Interval all{item.first, item.first + item.rows};
  item.met = keys ? item.rule.queries_union(all) : item.rule.window_union(all);
  if (!axis.modular()) item.met = item.met.clipped(columns.positions());
  const int met = item.met.size();
  const int extent = plan.columns[which];
  item.seam = met;
  int from = item.met.begin;
  if (axis.modular()) {
    const int period = floor_div(from, item.rule.length) * item.rule.length;
    item.seam = min_of(period + item.rule.length - from, met);
    from -= period;
  }
  item.column = columns.token(from);
  item.seam_column = columns.token(columns.begin);
  item.seam_tiles = (item.seam + extent - 1) / extent;
  item.tiles = item.seam_tiles + (met - item.seam + extent - 1) / extent;
  // Tiles that end with the part of the axis they are in hold zeros beyond it.
  for (int w = 0; w < kMostWarpgroups; ++w) {
    const int low = min_of(plan.offset(w, which), item.rows);
    const int high = min_of(low + plan.rows[which], item.rows);
    // What a warpgroup makes of rows that there are not is never stored in the forward pass; the
    // gradient of the queries is a sum over them.
    item.sure[w] = {-kEverything, keys ? -kEverything : kEverything};
    if (high > low && (!keys || high - low == plan.rows[which])) {
      const Interval own{item.first + low, item.first + high};
      const Interval sure =
          (keys ? item.rule.queries_intersection(own) : item.rule.window_intersection(own))
              .clipped(item.met);
      item.sure[w] = {sure.begin - item.met.begin, sure.end - item.met.begin};
    }
  }
  return item;
}

// Whether every row of a warpgroup meets every column of a tile, on this axis.
JAX_NA_INLINE bool tile_is_sure(const AxisItem& item, int warpgroup, int tile, int extent) {
  const int origin = item.origin(tile, extent);
  const Interval sure = item.sure[warpgroup];
  return origin >= sure.begin && origin + extent <= sure.end &&
         (origin + extent <= item.limit(tile) || sure.end > item.met.size());
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
