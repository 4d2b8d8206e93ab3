#include "cuda/hopper/plan.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda/hopper/cost.h"

namespace jax_na::cuda {
namespace {

using Triple = std::array<int, kMaxRank>;

int volume(const Triple& box) {
  return box[0] * box[1] * box[2];
}

// Boxes of at least `fewest` and at most `most` positions, no wider than an axis needs.
std::vector<Triple> boxes_of(int fewest, int most, const Triple& widest) {
  std::vector<Triple> boxes;
  for (int z = 1; z <= std::min(most, widest[0]); ++z) {
    for (int y = 1; z * y <= most && y <= widest[1]; ++y) {
      const int last = std::min(most / (z * y), widest[2]);
      const int first = std::max((fewest + z * y - 1) / (z * y), 1);
      // All that fit, or the widest where the axes are too short for `fewest`.
      if (first > last && last > 0) boxes.push_back({z, y, last});
      for (int x = first; x <= last; ++x) boxes.push_back({z, y, x});
    }
  }
  // Short ones only where there is nothing else.
  int largest = 0;
  for (const Triple& box : boxes) largest = std::max(largest, volume(box));
  const int floor = std::min(fewest, largest);
  boxes.erase(std::remove_if(boxes.begin(), boxes.end(),
                             [&](const Triple& box) { return volume(box) < floor; }),
              boxes.end());
  // The first of equally good ones is chosen.
  std::stable_sort(boxes.begin(), boxes.end(),
                   [](const Triple& a, const Triple& b) { return volume(a) > volume(b); });
  return boxes;
}

bool whole(const Axis& axis) {
  return axis.query_count == axis.length && axis.key_count == axis.length;
}

// Launches along each axis: the fewest that leave a dilation that the copy engine steps over, and
// more for wider boxes. Where the tokens of a slab are is only known on the device, so it has one.
std::vector<Triple> phases_of(const Problem& problem) {
  std::vector<Triple> all;
  for (int most = kMostElementStride; most >= 1; most /= 2) {
    Triple phases = {1, 1, 1};
    bool legal = true;
    for (int a = 0; a < kMaxRank; ++a) {
      const int dilation = problem.axes[a].dilation;
      int step = whole(problem.axes[a]) ? std::min(most, dilation) : dilation;
      while (dilation % step != 0) --step;
      phases[a] = dilation / step;
      legal = legal && step <= kMostElementStride;
    }
    const bool is_new = std::find(all.begin(), all.end(), phases) == all.end();
    if (legal && is_new && volume(phases) <= kMostLaunches) all.push_back(phases);
  }
  return all;
}

void set(int (&to)[kMaxRank], const Triple& from) {
  std::copy(from.begin(), from.end(), to);
}

// A plan in few words.
struct Candidate {
  double clocks = 1e300;
  Triple rows, warpgroups, columns, phases;

  bool same(const Candidate& other) const {
    return rows == other.rows && warpgroups == other.warpgroups && columns == other.columns &&
           phases == other.phases;
  }
};

// The best candidate for every box of rows and for every box of columns, in given phases.
void search(const Problem& problem, const HopperLimits& limits, int multiprocessors,
            const Triple& phases, std::vector<Candidate>& candidates) {
  int given[kMaxRank];
  set(given, phases);
  LaunchCost cost(problem, limits, multiprocessors, given);
  Triple widest_rows, widest_columns;
  for (int a = 0; a < kMaxRank; ++a) {
    const AxisTable& axis = cost.axis(a);
    widest_rows[a] = std::min(axis.positions(), axis.widest_box());
    widest_columns[a] = std::min(axis.column_positions(), axis.widest_box());
  }
  const std::vector<Triple> row_boxes =
      boxes_of(kWarpgroupRows - kWarpgroupRows / 8, kWarpgroupRows, widest_rows);
  const std::vector<Triple> column_boxes =
      boxes_of(limits.block - limits.block / 8, limits.block, widest_columns);
  std::vector<Candidate> by_columns(column_boxes.size());
  for (const Triple& row_box : row_boxes) {
    Candidate by_rows;
    for (int split = 0; split < kMaxRank; ++split) {
      // Warpgroups lie side by side along an axis that has room for them, if any has.
      if (row_box[split] >= cost.axis(split).positions() && split != 2) continue;
      int rows[kMaxRank], warpgroups[kMaxRank] = {1, 1, 1};
      set(rows, row_box);
      warpgroups[split] = limits.warpgroups;
      const double items = cost.items(rows, warpgroups);
      if (items > INT32_MAX) continue;
      AxisTable::Line* lines[kMaxRank];
      for (int a = 0; a < kMaxRank; ++a) lines[a] = &cost.axis(a).line(rows[a], warpgroups[a]);
      for (size_t k = 0; k < column_boxes.size(); ++k) {
        const Triple& columns = column_boxes[k];
        TileCounts tiles(cost.heads());
        bool legal = true;
        for (int a = 0; a < kMaxRank; ++a) {
          const AxisSums& sums = cost.axis(a).of(*lines[a], rows[a], warpgroups[a], columns[a]);
          tiles.along(sums);
          legal = legal && sums.legal;
        }
        if (!legal) continue;
        const double additional = items * cost.lines(volume(columns));
        const double masked = cost.masked(tiles, additional, volume(row_box), volume(columns));
        const double clocks = cost.clocks(items, tiles, masked, additional);
        if (clocks >= by_rows.clocks && clocks >= by_columns[k].clocks) continue;
        const Candidate found = {
            clocks, row_box, {warpgroups[0], warpgroups[1], warpgroups[2]}, columns, phases};
        if (clocks < by_rows.clocks) by_rows = found;
        if (clocks < by_columns[k].clocks) by_columns[k] = found;
      }
    }
    candidates.push_back(by_rows);
  }
  candidates.insert(candidates.end(), by_columns.begin(), by_columns.end());
}

// Axes are counted from the end, which is the same in every rank.
std::string along(const char* what, int axis) {
  return std::string(what) + " along axis " + std::to_string(axis - kMaxRank) + " should ";
}

std::string outside(const char* what, int axis, int value, int low, int high) {
  return along(what, axis) + "be from " + std::to_string(low) + " to " + std::to_string(high) +
         ", but are " + std::to_string(value);
}

}  // namespace

Problem phase_of(const Problem& problem, const int (&phases)[kMaxRank],
                 const int (&phase)[kMaxRank]) {
  Problem part = problem;
  for (int a = 0; a < kMaxRank; ++a) part.axes[a] = phase_of(part.axes[a], phases[a], phase[a]);
  return part;
}

std::vector<HopperPlan> hopper_plans(const Problem& problem, const HopperLimits& limits,
                                     int multiprocessors, int most) {
  std::vector<Candidate> candidates;
  for (const Triple& phases : phases_of(problem))
    search(problem, limits, multiprocessors, phases, candidates);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.clocks < b.clocks; });
  std::vector<Candidate> chosen;
  std::vector<HopperPlan> plans;
  for (const Candidate& one : candidates) {
    if (static_cast<int>(plans.size()) == most || one.clocks >= 1e300) break;
    if (std::any_of(chosen.begin(), chosen.end(),
                    [&](const Candidate& other) { return one.same(other); }))
      continue;
    HopperPlan plan;
    set(plan.rows, one.rows), set(plan.warpgroups, one.warpgroups);
    set(plan.columns, one.columns), set(plan.phases, one.phases);
    LaunchCost(problem, limits, multiprocessors, plan.phases).price(plan);
    chosen.push_back(one);
    plans.push_back(plan);
  }
  return plans;
}

std::string complete_hopper_plan(const Problem& problem, const HopperLimits& limits,
                                 int multiprocessors, HopperPlan& plan) {
  int split = 0;
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& axis = problem.axes[a];
    const int phases = plan.phases[a];
    const std::string but = ", but are " + std::to_string(phases);
    if (phases < 1 || axis.dilation % phases != 0)
      return along("phases", a) + "divide the dilation, " + std::to_string(axis.dilation) + but;
    if (phases > 1 && !whole(axis))
      return along("phases", a) + "be 1, since the axis is cut over devices" + but;
    const int step = axis.dilation / phases, widest = kMostBoxSide / step;
    if (step > kMostElementStride)
      return along("phases", a) + "leave at most " + std::to_string(kMostElementStride) +
             " of the dilation, " + std::to_string(axis.dilation) + but;
    if (plan.rows[a] < 1 || plan.rows[a] > widest)
      return outside("queries", a, plan.rows[a], 1, widest);
    if (plan.columns[a] < 1 || plan.columns[a] > widest)
      return outside("keys", a, plan.columns[a], 1, widest);
    if (plan.warpgroups[a] < 1 || plan.warpgroups[a] > limits.warpgroups)
      return outside("warpgroups", a, plan.warpgroups[a], 1, limits.warpgroups);
    split += plan.warpgroups[a] > 1;
  }
  // No product of three extents overflows: none is above 256.
  if (plan.row_count() > kWarpgroupRows)
    return "queries should be " + std::to_string(kWarpgroupRows) + " at most, but are " +
           std::to_string(plan.row_count());
  if (plan.column_count() > limits.block)
    return "keys should be " + std::to_string(limits.block) + " at most at head dimension " +
           std::to_string(limits.head_dim) + ", but are " + std::to_string(plan.column_count());
  if (split > 1 || plan.warpgroup_count() != limits.warpgroups)
    return "warpgroups should be " + std::to_string(limits.warpgroups) + " along one axis and 1 " +
           "along the others";
  if (plan.launches() > kMostLaunches)
    return "phases should make " + std::to_string(kMostLaunches) + " launches at most, but make " +
           std::to_string(plan.launches());
  LaunchCost cost(problem, limits, multiprocessors, plan.phases);
  if (cost.items(plan.rows, plan.warpgroups) > INT32_MAX)
    return "queries are too few: there are more boxes of them than one launch takes";
  if (!cost.price(plan)) return "queries and keys meet the seam of a periodic axis twice";
  return "";
}

std::string str(const HopperPlan& p) {
  char text[320];
  int length = std::snprintf(
      text, sizeof text,
      "%s %dx%dx%d for each of %dx%dx%d warpgroups, boxes %dx%dx%d, %s %dx%dx%d, "
      "%.0f items of %.1f tiles, %.0f %% of them masked",
      p.rows_are_keys ? "keys" : "queries", p.rows[0], p.rows[1], p.rows[2], p.warpgroups[0],
      p.warpgroups[1], p.warpgroups[2], p.boxes[0], p.boxes[1], p.boxes[2],
      p.rows_are_keys ? "queries" : "keys", p.columns[0], p.columns[1], p.columns[2],
      static_cast<double>(p.items), p.tiles / p.items, 100 * p.masked_tiles / p.tiles);
  if (p.launches() > 1)
    std::snprintf(text + length, sizeof text - length, ", %d launches (%dx%dx%d phases)",
                  p.launches(), p.phases[0], p.phases[1], p.phases[2]);
  return text;
}

}  // namespace jax_na::cuda
