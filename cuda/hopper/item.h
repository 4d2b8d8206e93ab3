// One axis of an item: which rows it has, which columns they meet, and how tiles cover those.
//
// In the forward pass rows are queries and columns the keys that they see; where the gradients of
// the keys are found, rows are keys and columns the queries that see them.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

// What `use` finds by the rule. Divisions by a stride of 1, as most are, leave the code: a GPU
// takes long for them, and kernels with short items would wait for those to be described.
template <typename Use>
JAX_NA_INLINE auto with_rule(Rule rule, Use use) {
  if (rule.stride != 1) return use(rule);
  rule.stride = 1;
  return use(rule);
}

// The same of an axis and its dilation.
template <typename Use>
JAX_NA_INLINE auto with_axis(Axis axis, Use use) {
  if (axis.dilation != 1) return use(axis);
  axis.dilation = 1;
  return use(axis);
}

// Columns are counted from the first one that is met. A periodic axis may be met across its seam,
// behind which tiles begin anew: no box of the copy engine goes around.
struct AxisItem {
  Rule rule;
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
  template <bool kRowsAreKeys>
  JAX_NA_INLINE Interval seen(int place) const {
    // Nothing is stored of queries that there are not. What they make of scores of zero is
    // harmless, and has its softmax settled as soon as that of others.
    if (!kRowsAreKeys) place = min_of(place, rows - 1);
    if (place >= rows) return {0, 0};
    const int at = first + place;
    const Interval all = with_rule(
        rule, [&](const Rule& by) { return kRowsAreKeys ? by.queries_of(at) : by.window_of(at); });
    const Interval own = all.clipped(met);
    return {own.begin - met.begin, own.end - met.begin};
  }
};

// Makes of `item` the box of rows that begins at the `begin`th of the dilation group `group`.
template <bool kRowsAreKeys>
JAX_NA_INLINE void make_axis_item(AxisItem& item, const Axis& axis, const HopperPlan& plan,
                                  int which, int group, int begin) {
  constexpr int kEverything = 1 << 30;
  struct Group {
    Held rows, columns;
    Rule rule;
  };
  const Group of = with_axis(axis, [&](const Axis& by) {
    return kRowsAreKeys ? Group{by.keys(group), by.queries(group), by.rule(group)}
                        : Group{by.queries(group), by.keys(group), by.rule(group)};
  });
  const Held &rows = of.rows, &columns = of.columns;
  const Rule& rule = of.rule;
  const int count = max_of(min_of(begin + plan.box(which), rows.count) - begin, 0);
  const int first = rows.begin + begin;
  item.rule = rule;
  item.rows = count;
  if (count == 0) return;
  item.first = first;
  item.row = rows.token(first);
  const Interval all{first, first + count};
  Interval met = with_rule(rule, [&](const Rule& by) {
    return kRowsAreKeys ? by.queries_union(all) : by.window_union(all);
  });
  if (!axis.modular()) met = met.clipped(columns.positions());
  item.met = met;
  const int extent = plan.columns[which];
  int seam = met.size(), from = met.begin;
  if (axis.modular()) {
    const int period = floor_div(from, rule.length) * rule.length;
    seam = min_of(period + rule.length - from, seam);
    from -= period;
  }
  item.seam = seam;
  item.column = columns.token(from);
  item.seam_column = columns.token(columns.begin);
  const int seam_tiles = (seam + extent - 1) / extent;
  item.seam_tiles = seam_tiles;
  item.tiles = seam_tiles + (met.size() - seam + extent - 1) / extent;
  // Tiles that end with the part of the axis they are in hold zeros beyond it.
  for (int w = 0; w < kMostWarpgroups; ++w) {
    const int low = min_of(plan.offset(w, which), count);
    const int high = min_of(low + plan.rows[which], count);
    // What a warpgroup makes of rows that there are not is never stored in the forward pass; the
    // gradient of the queries is a sum over them.
    item.sure[w] = {-kEverything, kRowsAreKeys ? -kEverything : kEverything};
    if (kRowsAreKeys ? high - low == plan.rows[which] : high > low) {
      item.sure[w] = {item.seen<kRowsAreKeys>(high - 1).begin, item.seen<kRowsAreKeys>(low).end};
    }
  }
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
  int pairs;  // of tiles, in a line of the backward pass (backward/pairs.h)
  bool last;  // no item, but the end of them
};

}  // namespace jax_na::cuda
