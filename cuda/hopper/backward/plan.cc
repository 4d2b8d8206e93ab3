#include "cuda/hopper/backward/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <utility>
#include <vector>

#include "cuda/hopper/backward/item.h"

namespace jax_na::cuda {
namespace {

// Clocks of a multiprocessor; docs/kernels.md says where they come from.
struct Prices {
  double tile;
  double masked_tile;  // more than another
  double item;
  double launch;
};

Prices prices_of(const HopperLimits& limits) {
  const double pairs = static_cast<double>(limits.warpgroups) * kWarpgroupRows * limits.block;
  const double products = pairs * 10 * limits.head_dim / 4096;
  const double rest = pairs * 0.22;
  const double both = std::sqrt(std::hypot(products * products, rest * rest));
  return {both + 1000, pairs * 0.01, 5000, 20000};
}

constexpr double kCacheBytes = 45e6;  // of the L2 cache of an H100, nearly all
constexpr int kBoxesLookedAt = 1024;  // of an axis

// Sums over the boxes of queries of one axis.
struct AxisSums {
  double tiles = 0;
  double sure = 0;  // of them, those that a warpgroup sees whole, on average
  bool legal = true;
};

class AxisTable {
 public:
  AxisTable(const Axis& axis, int which) : axis_(axis), which_(which) {
    // A slab may lie anywhere; the whole axis stands for it.
    axis_.query_origin = axis_.key_origin = 0;
    axis_.query_count = axis_.key_count = axis_.length;
    positions_ = (axis.key_count + axis.dilation - 1) / axis.dilation;
    modular_ = axis.modular();
  }

  // Rows of the longest dilation group.
  int positions() const { return positions_; }
  int boxes(int box) const { return (positions_ + box - 1) / box; }
  int widest_box() const { return kMostBoxSide / axis_.dilation; }

  const AxisSums& of(int rows, int warpgroups, int columns) {
    auto [found, is_new] = known_.try_emplace({rows * 4 + warpgroups, columns});
    if (is_new) found->second = sum(rows, warpgroups, columns);
    return found->second;
  }

 private:
  AxisSums sum(int rows, int warpgroups, int columns) const {
    AxisSums sums;
    HopperPlan plan;
    plan.rows[which_] = rows;
    plan.warpgroups[which_] = warpgroups;
    plan.keys[which_] = columns;
    const int box = plan.box(which_);
    const int boxes = (axis_.group_length(0) + box - 1) / box;
    const int looked_at = modular_ ? boxes : std::min(boxes, kBoxesLookedAt);
    for (int i = 0; i < looked_at; ++i) {
      const int place = static_cast<int>(static_cast<int64_t>(i) * boxes / looked_at);
      AxisItem item{};
      make_key_item(item, axis_, plan, which_, 0, place * box);
      sums.tiles += item.tiles;
      for (int w = 0; w < warpgroups; ++w) {
        for (int tile = 0; tile < item.tiles; ++tile)
          if (tile_is_sure(item, w, tile, columns)) sums.sure += 1.0 / warpgroups;
      }
      // What meets the seam of an axis twice is not cut.
      if (modular_ && item.met.size() - item.seam > item.rule.length) sums.legal = false;
    }
    const double all = static_cast<double>(boxes_of_all(box)) / looked_at;
    sums.tiles *= all;
    sums.sure *= all;
    return sums;
  }
  // Over all dilation groups.
  int64_t boxes_of_all(int box) const { return static_cast<int64_t>(boxes(box)) * axis_.dilation; }

  Axis axis_;
  int which_;
  int positions_ = 0;
  bool modular_ = false;
  std::map<std::pair<int, int>, AxisSums> known_;
};

struct Box {
  int at[kMaxRank];
};

// Boxes of at least `fewest` and at most `most` positions, no wider than an axis needs.
std::vector<Box> boxes_of(int fewest, int most, const int (&widest)[kMaxRank]) {
  std::vector<Box> boxes;
  for (int z = 1; z <= std::min(most, widest[0]); ++z) {
    for (int y = 1; z * y <= most && y <= widest[1]; ++y) {
      const int last = std::min(most / (z * y), widest[2]);
      const int first = std::max((fewest + z * y - 1) / (z * y), 1);
      // All that fit, or the widest where the axes are too short for `fewest`.
      if (first > last && last > 0) boxes.push_back({{z, y, last}});
      for (int x = first; x <= last; ++x) boxes.push_back({{z, y, x}});
    }
  }
  // Short ones only where there is nothing else.
  int largest = 0;
  for (const Box& box : boxes) largest = std::max(largest, box.at[0] * box.at[1] * box.at[2]);
  const int floor = std::min(fewest, largest);
  boxes.erase(
      std::remove_if(boxes.begin(), boxes.end(),
                     [&](const Box& box) { return box.at[0] * box.at[1] * box.at[2] < floor; }),
      boxes.end());
  // The first of equally good ones is chosen.
  std::stable_sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) {
    return a.at[0] * a.at[1] * a.at[2] > b.at[0] * b.at[1] * b.at[2];
  });
  return boxes;
}

// Items that run at the same time should meet the same columns, whose sums then stay in the L2
// cache: first come the axes of which a window covers the most.
void order_items(const Problem& problem, HopperBackwardPlan& plan) {
  auto covered = [&](int axis) {
    const Axis& of = problem.axes[axis];
    return static_cast<double>(of.window) * of.dilation / of.length;
  };
  std::stable_sort(plan.order, plan.order + kMaxRank,
                   [&](int a, int b) { return covered(a) > covered(b); });
}

// Bytes of the queries that as many items meet as there are multiprocessors, with their cotangents
// and sums.
double met_bytes(const Problem& problem, const HopperBackwardPlan& plan, int multiprocessors) {
  constexpr double kBytes = 2 + 2 + 4;
  double items = multiprocessors, queries = 1;
  for (int axis : plan.order) {
    const Axis& of = problem.axes[axis];
    const double side_by_side = std::min(items, static_cast<double>(plan.boxes[axis]));
    items /= side_by_side;
    const double keys = side_by_side * plan.box(axis) + of.window;
    queries *= std::min(keys * of.dilation, static_cast<double>(of.length));
  }
  return queries * problem.head_dim * kBytes;
}

}  // namespace

// Searches for the boxes of the lowest predicted time.
bool make_hopper_backward_plan(const Problem& problem, const HopperLimits& limits,
                               int multiprocessors, HopperBackwardPlan& best) {
  const Prices prices = prices_of(limits);
  AxisTable axes[kMaxRank] = {{problem.axes[0], 0}, {problem.axes[1], 1}, {problem.axes[2], 2}};
  int widest_rows[kMaxRank], widest_columns[kMaxRank];
  int64_t groups = 1;
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& axis = problem.axes[a];
    if (axis.dilation > kMostElementStride) return false;
    widest_rows[a] = std::min(axes[a].positions(), axes[a].widest_box());
    widest_columns[a] =
        std::min((axis.length + axis.dilation - 1) / axis.dilation, axes[a].widest_box());
    groups *= axis.dilation;
  }
  const std::vector<Box> row_boxes =
      boxes_of(kWarpgroupRows - kWarpgroupRows / 8, kWarpgroupRows, widest_rows);
  const std::vector<Box> column_boxes =
      boxes_of(limits.block - limits.block / 8, limits.block, widest_columns);
  const double heads = static_cast<double>(problem.batch) * problem.kv_heads;
  // Keys meet the queries of every head that shares them.
  const double all_heads = static_cast<double>(problem.batch) * problem.heads;
  bool found = false;
  for (const Box& rows : row_boxes) {
    for (int split = 0; split < kMaxRank; ++split) {
      int warpgroups[kMaxRank] = {1, 1, 1};
      warpgroups[split] = limits.warpgroups;
      // Warpgroups lie side by side along an axis that has room for them, if any has.
      if (rows.at[split] >= axes[split].positions() && split != 2) continue;
      double boxes = heads * static_cast<double>(groups);
      for (int a = 0; a < kMaxRank; ++a) boxes *= axes[a].boxes(rows.at[a] * warpgroups[a]);
      if (boxes > INT32_MAX) continue;
      const double rounds = std::max(1.0, std::ceil(boxes / multiprocessors));
      for (const Box& columns : column_boxes) {
        double tiles = all_heads, sure = all_heads;
        bool legal = true;
        for (int a = 0; a < kMaxRank; ++a) {
          const AxisSums& sums = axes[a].of(rows.at[a], warpgroups[a], columns.at[a]);
          tiles *= sums.tiles;
          sure *= sums.sure;
          legal = legal && sums.legal;
        }
        if (!legal) continue;
        // Keys that a box leaves out are hidden; queries that there are not have no weights.
        const bool all_masked = rows.at[0] * rows.at[1] * rows.at[2] < kWarpgroupRows;
        const double masked = all_masked ? tiles : tiles - sure;
        const double per_item =
            (tiles * prices.tile + masked * prices.masked_tile) / boxes + prices.item;
        const double clocks = per_item * rounds + prices.launch;
        if (found && clocks >= best.clocks) continue;
        found = true;
        best.tiles = tiles;
        best.masked_tiles = masked;
        best.clocks = clocks;
        best.items = static_cast<int>(boxes);
        for (int a = 0; a < kMaxRank; ++a) {
          best.rows[a] = rows.at[a];
          best.warpgroups[a] = warpgroups[a];
          best.keys[a] = columns.at[a];
          best.boxes[a] = axes[a].boxes(rows.at[a] * warpgroups[a]);
        }
      }
    }
  }
  if (!found) return false;
  order_items(problem, best);
  best.beyond_cache = met_bytes(problem, best, multiprocessors) > kCacheBytes;
  for (int i = 0; i < kMaxRank; ++i) best.boxes_along[i] = FastDiv(best.boxes[best.order[i]]);
  best.group_z = FastDiv(problem.axes[0].dilation);
  best.group_y = FastDiv(problem.axes[1].dilation);
  best.group_x = FastDiv(problem.axes[2].dilation);
  best.heads = FastDiv(problem.kv_heads);
  return true;
}

std::string str(const HopperBackwardPlan& p) {
  char text[256];
  std::snprintf(text, sizeof text,
                "keys %dx%dx%d for each of %dx%dx%d warpgroups, boxes %dx%dx%d, queries %dx%dx%d, "
                "%.0f items of %.1f tiles, %.0f %% of them masked",
                p.rows[0], p.rows[1], p.rows[2], p.warpgroups[0], p.warpgroups[1], p.warpgroups[2],
                p.boxes[0], p.boxes[1], p.boxes[2], p.keys[0], p.keys[1], p.keys[2],
                static_cast<double>(p.items), p.tiles / p.items, 100 * p.masked_tiles / p.tiles);
  return text;
}

}  // namespace jax_na::cuda
