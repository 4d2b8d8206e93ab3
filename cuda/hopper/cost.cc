#include "cuda/hopper/cost.h"

#include <algorithm>
#include <cmath>

#include "cuda/hopper/backward/pairs.h"
#include "cuda/hopper/turn.h"

namespace jax_na::cuda {
namespace {

constexpr int kBoxesLookedAt = 1024;  // of an axis
constexpr int kFirst[kMaxRank] = {0, 0, 0};

// How many of `count` tiles from `first` on, whose first column is `origin`, a warpgroup meets
// whole.
int sure_tiles(const AxisItem& item, int warpgroup, int first, int count, int origin, int columns) {
  if (count == 0) return 0;
  // All but the last are whole tiles.
  const Interval sure = item.sure[warpgroup];
  const int begin = max_of(ceil_div(sure.begin - origin, columns), 0);
  const int end = min_of(floor_div(sure.end - origin, columns), count - 1);
  return max_of(end - begin, 0) + tile_is_sure(item, warpgroup, first + count - 1, columns);
}

// How many tiles a warpgroup saves by passing over what it does not meet is known of the fastest
// axis: along another one the warpgroups would not meet at the same time, and wait for each other.
int needed_tiles(const AxisItem& item, const HopperPlan& plan, int which, int warpgroup) {
  if (which != kMaxRank - 1 || item.seam != item.met.size()) return item.tiles;
  const int low = min_of(plan.offset(warpgroup, which), item.rows);
  const int high = min_of(low + plan.rows[which], item.rows);
  if (low == high) return item.tiles;
  const Interval met = item.rule.window_union({item.first + low, item.first + high});
  const Interval own = met.clipped(item.met);
  if (own.size() == 0) return 0;
  return ceil_div(own.end - item.met.begin, plan.columns[which]) -
         (own.begin - item.met.begin) / plan.columns[which];
}

}  // namespace

HopperPrices hopper_prices(const HopperLimits& limits) {
  const double pairs = static_cast<double>(limits.warpgroups) * kWarpgroupRows * limits.block;
  // Of so many products, and the arithmetic between them.
  auto gradients = [&](int count, double arithmetic, double more) {
    const double products = pairs * 2 * count * limits.head_dim / 4096, rest = pairs * arithmetic;
    return std::sqrt(std::hypot(products * products, rest * rest)) + more;
  };
  switch (limits.pass) {
    case HopperPass::kGradients:
      if (limits.resident == 2) return {1830, pairs * 0.04, 1900, 15000};
      if (limits.head_dim > 128)
        return {15.7 * limits.head_dim + 1170, pairs * 0.15, 20.0 * limits.head_dim + 1500, 20000};
      if (limits.head_dim > 64) return {gradients(5, 0.22, 1000), pairs * 0.01, 9000, 20000};
      return {gradients(5, 0.22, 700), pairs * 0.01, 6500, 20000};
    case HopperPass::kKeyGradient:
      if (limits.resident == 2) return {1230, pairs * 0.061, 1850, 15000};
      if (limits.head_dim <= 64) return {gradients(4, 0.185, 300), pairs * 0.02, 5700, 15000};
      if (limits.head_dim > 128)
        return {7.0 * limits.head_dim + 1520, pairs * 0.12, 20.0 * limits.head_dim, 15000};
      return {13.3 * limits.head_dim + 950, pairs * 0.0012 * limits.head_dim, 1500, 15000};
    case HopperPass::kQueryGradient:
      if (limits.resident == 2) return {910, pairs * 0.034, 2000, 15000};
      // Queries are read anew for each tile, however few keys it has.
      return {340 + 3.5 * limits.head_dim + pairs * (0.0245 + 0.00114 * limits.head_dim),
              pairs * 0.042, 48.0 * limits.head_dim, 15000};
    case HopperPass::kForward:
      break;
  }
  // With two CTAs on a multiprocessor.
  if (limits.resident == 2) {
    if (limits.head_dim > 32) return {890, pairs * 0.019, 3400, 14000};
    return {1140, pairs * 0.0135, 2200, 14000};
  }
  // Products and softmax run side by side, but not without getting in each other's way.
  constexpr double kPower = 2.85;
  const double products = 0.728 * pairs * 4 * limits.head_dim / 4096;
  const double softmax = 0.0558 * pairs;
  const double both = std::pow(std::pow(products, kPower) + std::pow(softmax, kPower), 1 / kPower);
  return {both + 950, 0.0227 * pairs, 1630.0 + 22 * limits.head_dim, 11200};
}

AxisTable::AxisTable(const Axis& axis, int which, const HopperLimits& limits)
    : axis_(axis),
      which_(which),
      rows_are_keys_(limits.rows_are_keys),
      pairs_(limits.pairs),
      positions_(((limits.rows_are_keys ? axis.key_count : axis.query_count) + axis.dilation - 1) /
                 axis.dilation),
      column_positions_((axis.length + axis.dilation - 1) / axis.dilation),
      modular_(axis.modular()) {
  // A slab may lie anywhere; the whole axis stands for it.
  axis_.query_origin = axis_.key_origin = 0;
  axis_.query_count = axis_.key_count = axis_.length;
}

AxisTable::Line& AxisTable::line(int rows, int warpgroups) {
  return lines_[{rows, warpgroups}];
}

const AxisSums& AxisTable::of(Line& line, int rows, int warpgroups, int columns) const {
  if (line.size() <= static_cast<size_t>(columns)) line.resize(columns + 1);
  AxisSums& sums = line[columns];
  if (sums.tiles < 0) sums = sum(rows, warpgroups, columns);
  return sums;
}

AxisItem AxisTable::item_at(const HopperPlan& plan, int place) const {
  AxisItem item{};
  if (rows_are_keys_)
    make_axis_item<true>(item, axis_, plan, which_, 0, place * plan.box(which_));
  else
    make_axis_item<false>(item, axis_, plan, which_, 0, place * plan.box(which_));
  return item;
}

BoxTiles AxisTable::box_tiles(const HopperPlan& plan, int place) const {
  const AxisItem item = item_at(plan, place);
  BoxTiles box{static_cast<double>(item.tiles), 0};
  const int warpgroups = plan.warpgroups[which_];
  for (int w = 0; w < warpgroups; ++w)
    box.needed += needed_tiles(item, plan, which_, w) / static_cast<double>(warpgroups);
  return box;
}

AxisSums AxisTable::sum(int rows, int warpgroups, int columns) const {
  AxisSums sums;
  sums.tiles = 0;
  HopperPlan plan;
  plan.rows[which_] = rows;
  plan.warpgroups[which_] = warpgroups;
  plan.columns[which_] = columns;
  const int box = plan.box(which_);
  const int boxes = (axis_.group_length(0) + box - 1) / box;
  const int looked_at = modular_ ? boxes : std::min(boxes, kBoxesLookedAt);
  for (int i = 0; i < looked_at; ++i) {
    const int place = static_cast<int>(static_cast<int64_t>(i) * boxes / looked_at);
    const AxisItem item = item_at(plan, place);
    sums.tiles += item.tiles;
    for (int w = 0; w < warpgroups; ++w) {
      const int behind = item.tiles - item.seam_tiles;
      sums.sure += (sure_tiles(item, w, 0, item.seam_tiles, 0, columns) +
                    sure_tiles(item, w, item.seam_tiles, behind, item.seam, columns)) /
                   static_cast<double>(warpgroups);
      if (!rows_are_keys_)
        sums.needed += needed_tiles(item, plan, which_, w) / static_cast<double>(warpgroups);
    }
    if (rows_are_keys_)
      sums.needed += item.tiles - (pairs_ && which_ == 2 ? tile_pairs(item, plan) : 0);
    // What meets the seam of an axis twice is not cut.
    if (modular_ && item.met.size() - item.seam > item.rule.length) sums.legal = false;
  }
  const double all = static_cast<double>(this->boxes(box)) * axis_.dilation / looked_at;
  sums.tiles *= all;
  sums.sure *= all;
  sums.needed *= all;
  return sums;
}

LaunchCost::LaunchCost(const Problem& problem, const HopperLimits& limits, int multiprocessors,
                       const int (&phases)[kMaxRank])
    : problem_(phase_of(problem, phases, kFirst)),
      limits_(limits),
      prices_(hopper_prices(limits)),
      multiprocessors_(multiprocessors),
      launches_(phases[0] * phases[1] * phases[2]),
      axes_{{problem_.axes[0], 0, limits},
            {problem_.axes[1], 1, limits},
            {problem_.axes[2], 2, limits}} {}

double LaunchCost::items(const int (&rows)[kMaxRank], const int (&warpgroups)[kMaxRank]) const {
  double items = static_cast<double>(problem_.batch) * row_heads();
  for (int a = 0; a < kMaxRank; ++a)
    items *=
        static_cast<double>(axes_[a].boxes(rows[a] * warpgroups[a])) * problem_.axes[a].dilation;
  return items;
}

double LaunchCost::clocks(double items, const TileCounts& tiles, double masked,
                          double lines) const {
  // A multiprocessor that is done early takes from what another one would be late with.
  const double share = std::max(1.0, items / (multiprocessors_ * limits_.resident));
  const double rounds = limits_.resident * (0.25 * std::ceil(share) + 0.75 * share);
  const double each =
      ((met(tiles.needed, tiles.all) + lines) * prices_.tile + masked * prices_.masked_tile) /
      items;
  return launches_ * ((each + prices_.item) * rounds + prices_.launch);
}

bool LaunchCost::price(HopperPlan& plan) {
  const double items = this->items(plan.rows, plan.warpgroups);
  TileCounts tiles(heads());
  for (int a = 0; a < kMaxRank; ++a) {
    const int warpgroups = plan.warpgroups[a];
    const AxisSums& sums = axes_[a].of(axes_[a].line(plan.rows[a], warpgroups), plan.rows[a],
                                       warpgroups, plan.columns[a]);
    if (!sums.legal) return false;
    tiles.along(sums);
    plan.boxes[a] = axes_[a].boxes(plan.box(a));
  }
  const double lines = items * this->lines(plan.column_count());
  plan.rows_are_keys = limits_.rows_are_keys;
  plan.tiles = tiles.all + lines;
  plan.masked_tiles = masked(tiles, lines, plan.row_count(), plan.column_count());
  plan.clocks = clocks(items, tiles, plan.masked_tiles, lines);
  plan.items = static_cast<int>(items);
  for (int i = 0; i < kMaxRank; ++i) plan.boxes_along[i] = FastDiv(plan.boxes[plan.order[i]]);
  plan.group_z = FastDiv(problem_.axes[0].dilation);
  plan.group_y = FastDiv(problem_.axes[1].dilation);
  plan.group_x = FastDiv(problem_.axes[2].dilation);
  plan.heads = FastDiv(row_heads());
  if (!limits_.rows_are_keys) plan.turn = turn(plan);
  return true;
}

int LaunchCost::turn(const HopperPlan& plan) const {
  const int ctas = multiprocessors_ * limits_.resident;
  if (plan.items <= ctas || plan.items / ctas > kMostTurnedRounds) return 0;
  // Of the boxes of a head, which go by in the same order in every one.
  std::vector<double> clocks;
  const int *order = plan.order, *boxes = plan.boxes;
  std::vector<BoxTiles> along[kMaxRank];
  for (int a = 0; a < kMaxRank; ++a) {
    for (int place = 0; place < boxes[a]; ++place)
      along[a].push_back(axes_[a].box_tiles(plan, place));
  }
  for (const BoxTiles& last : along[order[2]]) {
    for (const BoxTiles& middle : along[order[1]]) {
      for (const BoxTiles& first : along[order[0]])
        clocks.push_back(prices_.item +
                         prices_.tile * met(first.needed * middle.needed * last.needed,
                                            first.all * middle.all * last.all));
    }
  }
  return best_turn(clocks, plan.items, ctas);
}

}  // namespace jax_na::cuda
