// One axis of an item of the backward pass: an AxisItem with the roles exchanged, whose queries are
// keys and whose keys are the queries that see them.
#pragma once

#include "cuda/hopper/item.h"

namespace jax_na::cuda {

// Makes of `item` the box of keys that begins at the `begin`th of the dilation group `group`.
JAX_NA_INLINE void make_key_item(AxisItem& item, const Axis& axis, const HopperPlan& plan,
                                 int which, int group, int begin) {
  constexpr int kEverything = 1 << 30;
  const Held rows = axis.keys(group);
  const Held columns = axis.queries(group);
  const Rule rule = axis.rule(group);
  const int count = max_of(min_of(begin + plan.box(which), rows.count) - begin, 0);
  const int first = rows.begin + begin;
  item.rule = rule;
  item.queries = count;
  if (count == 0) return;
  item.first = first;
  item.query = rows.token(first);
  const Interval all{first, first + count};
  Interval met = rule.queries_union(all);
  if (!axis.modular()) met = met.clipped(columns.positions());
  item.met = met;
  const int extent = plan.keys[which];
  int seam = met.size(), from = met.begin;
  if (axis.modular()) {
    const int period = floor_div(from, rule.length) * rule.length;
    seam = min_of(period + rule.length - from, seam);
    from -= period;
  }
  item.seam = seam;
  item.key = columns.token(from);
  item.seam_key = columns.token(columns.begin);
  const int seam_tiles = (seam + extent - 1) / extent;
  item.seam_tiles = seam_tiles;
  item.tiles = seam_tiles + (met.size() - seam + extent - 1) / extent;
  // Tiles that end with the part of the axis they are in hold zeros beyond it.
  for (int w = 0; w < kMostWarpgroups; ++w) {
    const int low = min_of(plan.offset(w, which), count);
    const int high = min_of(low + plan.rows[which], count);
    // The gradient of the queries is a sum over all rows: those that there are not are hidden.
    item.sure[w] = {-kEverything, -kEverything};
    if (high - low == plan.rows[which]) {
      const Interval sure = rule.queries_intersection({first + low, first + high}).clipped(met);
      item.sure[w] = {sure.begin - met.begin, sure.end - met.begin};
    }
  }
}

// The queries that see the key at `place` of the box, counted from the first one that is met.
JAX_NA_INLINE Interval queries_of_place(const AxisItem& item, int place) {
  if (place >= item.queries) return {0, 0};
  const Interval all = item.rule.queries_of(item.first + place).clipped(item.met);
  return {all.begin - item.met.begin, all.end - item.met.begin};
}

}  // namespace jax_na::cuda
