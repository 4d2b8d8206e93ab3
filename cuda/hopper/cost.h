// What a plan of the Hopper kernel is expected to cost: tiles are counted, and each has a price.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/problem.h"
#include "cuda/hopper/item.h"
#include "cuda/hopper/plan.h"

namespace jax_na::cuda {

// Clocks of a multiprocessor, with all CTAs that it has room for; docs/hopper-forward.md says where
// they come from.
struct HopperPrices {
  double tile;
  double masked_tile;  // more than another
  double item;
  double launch;
};

HopperPrices hopper_prices(const HopperLimits& limits);

// Sums over the boxes of rows of one axis.
struct AxisSums {
  double tiles = -1;  // negative: not known yet
  double sure = 0;    // of them, those that a warpgroup meets whole, on average
  double needed = 0;  // of them, those that a warpgroup does not pass over, on average
  bool legal = true;
};

// The tiles of one box of rows, along an axis: all, and those that a warpgroup does not pass over.
struct BoxTiles {
  double all, needed;
};

// The tiles of a launch: products of sums over its axes.
struct TileCounts {
  double all, sure, needed;

  explicit TileCounts(double heads) : all(heads), sure(heads), needed(heads) {}
  void along(const AxisSums& axis) {
    all *= axis.tiles;
    sure *= axis.sure;
    needed *= axis.needed;
  }
};

// One axis of a launch.
class AxisTable {
 public:
  AxisTable(const Axis& axis, int which, const HopperLimits& limits);

  // Rows, and columns, of the longest dilation group.
  int positions() const { return positions_; }
  int column_positions() const { return column_positions_; }
  int boxes(int box) const { return (positions_ + box - 1) / box; }
  int widest_box() const { return kMostBoxSide / axis_.dilation; }

  // Of tiles of 1 to `columns` columns; a line that `of` looks things up in.
  using Line = std::vector<AxisSums>;
  Line& line(int rows, int warpgroups);
  const AxisSums& of(Line& line, int rows, int warpgroups, int columns) const;
  // Of the box at `place` of a dilation group.
  BoxTiles box_tiles(const HopperPlan& plan, int place) const;

 private:
  AxisItem item_at(const HopperPlan& plan, int place) const;
  AxisSums sum(int rows, int warpgroups, int columns) const;

  Axis axis_;
  int which_;
  bool rows_are_keys_;
  bool pairs_;
  int positions_;
  int column_positions_;
  bool modular_;
  std::map<std::pair<int, int>, Line> lines_;
};

// The launches of a problem in given phases.
class LaunchCost {
 public:
  LaunchCost(const Problem& problem, const HopperLimits& limits, int multiprocessors,
             const int (&phases)[kMaxRank]);

  AxisTable& axis(int a) { return axes_[a]; }
  // Boxes of rows of all heads, batch entries and dilation groups.
  double items(const int (&rows)[kMaxRank], const int (&warpgroups)[kMaxRank]) const;
  // Fills in what follows from the extents of a plan whose items fit an int; false
  // where boxes meet the seam of a periodic axis twice.
  bool price(HopperPlan& plan);
  // The clocks of all launches, of `items` that meet such tiles and as many `lines` of additional
  // keys; `masked` tiles are masked.
  double clocks(double items, const TileCounts& tiles, double masked, double lines) const;
  // Lines of additional keys of an item.
  int lines(int column_count) const {
    if (limits_.rows_are_keys) return 0;
    return (problem_.additional + column_count - 1) / column_count;
  }
  // Tiles that warpgroups mask.
  double masked(const TileCounts& tiles, double lines, int row_count, int column_count) const {
    // Keys that a tile leaves out are hidden; queries that there are not have no weights.
    const bool all =
        limits_.rows_are_keys ? row_count < kWarpgroupRows : column_count < limits_.block;
    const double met = passes_over() ? tiles.needed : tiles.all;
    return (all ? met : std::max(met - tiles.sure, 0.0)) + 0.5 * lines;
  }
  // Every head of the queries meets tiles, also where those are met by keys.
  double heads() const { return static_cast<double>(problem_.batch) * problem_.heads; }

 private:
  // Whether warpgroups pass over the tiles that they do not need.
  bool passes_over() const { return limits_.rows_are_keys ? limits_.pairs : limits_.resident == 2; }
  // What counts of a number of tiles.
  double met(double needed, double all) const {
    constexpr double kPassedOver = 0.25;  // of the price of a tile
    return passes_over() ? needed + kPassedOver * (all - needed) : all;
  }
  int turn(const HopperPlan& plan) const;
  int row_heads() const { return limits_.rows_are_keys ? problem_.kv_heads : problem_.heads; }

  Problem problem_;  // of the first launch
  HopperLimits limits_;
  HopperPrices prices_;
  int multiprocessors_;
  int launches_;
  AxisTable axes_[kMaxRank];
};

}  // namespace jax_na::cuda
