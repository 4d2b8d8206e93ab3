#include "core/plan.h"

#include <algorithm>
#include <limits>
#include <sstream>

namespace jax_na {
namespace {

// Costs in cycles of one core, fitted to the kernels on a Zen 3 core (2026-11-21, AVX2, float32).
// Only their ratios matter, and only for the choice of boxes.
constexpr double kFmaCycles2 = 0.80;  // one vector multiply-add in a register tile of 2 rows
constexpr double kFmaCycles4 = 0.52;  // the same with 4 rows
constexpr double kPackCycles = 0.5;   // one element packed
constexpr double kTileCycles = 3000;  // a tile's set-up
constexpr double kGroupCycles = 60;   // a group's set-up in one chunk
constexpr int64_t kChunkBytes =
    192 << 10;  // what one chunk of both streamed tensors may take: a share of the L2
constexpr int64_t kL1Bytes = 32 << 10;
constexpr double kFarPenalty = 0.3;  // of a multiply-add whose operands come from the L2
constexpr int64_t kTasksWanted =
    16;  // tiles, over batch and heads, below which a smaller box is preferred

struct Shape {
  Problem problem;
  Pass pass;
  int lanes;
  int bytes;

  bool keys_stationary() const { return pass == Pass::kKeyGradient; }
  // The dilation groups that the stationary tensor holds: a slab of a long axis may hold few.
  int groups_held(const Axis& axis) const {
    return min_of(axis.dilation, keys_stationary() ? axis.key_count : axis.query_count);
  }
  int group_held(const Axis& axis, int at) const {
    return floor_mod((keys_stationary() ? axis.key_origin : axis.query_origin) + at, axis.dilation);
  }
  Held stationary(const Axis& axis, int group) const {
    return keys_stationary() ? axis.keys(group) : axis.queries(group);
  }
  Held streamed(const Axis& axis, int group) const {
    return keys_stationary() ? axis.queries(group) : axis.keys(group);
  }
  Interval met(const Axis& axis, int group, int position) const {
    Rule rule = axis.rule(group);
    Interval all = keys_stationary() ? rule.queries_of(position) : rule.window_of(position);
    return axis.modular() ? all : all.clipped(streamed(axis, group).positions());
  }
  // Elements packed for each streamed token.
  int packed_width() const {
    int both = problem.head_dim + problem.value_dim;
    return pass == Pass::kForward ? both
                                  : both + (pass == Pass::kKeyGradient ? both : problem.head_dim);
  }
  // Multiply-adds for each visited pair.
  int pair_width() const {
    int both = problem.head_dim + problem.value_dim;
    return pass == Pass::kForward ? both
                                  : both + (pass == Pass::kKeyGradient ? both : problem.head_dim);
  }
};

std::vector<Span> cut(const Shape& shape, const Axis& axis, int box) {
  std::vector<Span> spans;
  for (int i = 0; i < shape.groups_held(axis); ++i) {
    int group = shape.group_held(axis, i);
    Held held = shape.stationary(axis, group);
    for (int at = 0; at < held.count; at += box) {
      int begin = held.begin + at;
      int count = min_of(box, held.count - at);
      Interval met = {shape.met(axis, group, begin).begin,
                      shape.met(axis, group, begin + count - 1).end};
      spans.push_back({group, begin, count, met});
    }
  }
  return spans;
}

// Visible pairs of one axis, and pairs computed: whole vectors for groups of `rows` neighbours
// where rows > 0.
int64_t axis_pairs(const Shape& shape, const Axis& axis, const std::vector<Span>& spans, int rows) {
  int64_t pairs = 0;
  for (const Span& span : spans) {
    int end = span.begin + span.count;
    for (int at = span.begin; at < end; at += max_of(rows, 1)) {
      Interval first = shape.met(axis, span.group, at);
      if (rows == 0) {
        pairs += first.size();
        continue;
      }
      Interval last = shape.met(axis, span.group, min_of(at + rows, end) - 1);
      int width = Interval{first.begin, last.end}.size();
      pairs += static_cast<int64_t>(rows) * ((width + shape.lanes - 1) / shape.lanes * shape.lanes);
    }
  }
  return pairs;
}

int64_t packed_positions(const std::vector<Span>& spans) {
  int64_t sum = 0;
  for (const Span& span : spans) sum += span.met.size();
  return sum;
}

int widest(const std::vector<Span>& spans) {
  int most = 0;
  for (const Span& span : spans) most = max_of(most, span.met.size());
  return most;
}

struct AxisCut {
  int box;
  std::vector<Span> spans;
  int64_t packed;
};

std::vector<AxisCut> axis_cuts(const Shape& shape, const Axis& axis, int smallest, int largest) {
  int longest = 0;
  for (int i = 0; i < shape.groups_held(axis); ++i)
    longest = max_of(longest, shape.stationary(axis, shape.group_held(axis, i)).count);
  std::vector<AxisCut> cuts;
  for (int box = smallest;; box *= 2) {
    int even = longest;  // boxes of one length: 56 as 4 x 14 rather than 3 x 16 + 8
    if (box < longest) {
      int parts = (longest + box - 1) / box;
      even = (longest + parts - 1) / parts;
    }
    even = max_of(even, 1);
    if (cuts.empty() || cuts.back().box != even) {
      std::vector<Span> spans = cut(shape, axis, even);
      int64_t packed = packed_positions(spans);
      cuts.push_back({even, std::move(spans), packed});
    }
    if (box >= longest || box >= largest) break;
  }
  return cuts;
}

}  // namespace

Plan make_cpu_plan(const Problem& problem, Pass pass, int lanes, int bytes) {
  Shape shape{problem, pass, lanes, bytes};
  Plan plan;
  plan.pass = pass;
  plan.lanes = lanes;

  // The rows of a register tile: what they waste at the ends of their common vectors against what
  // they share.
  const Axis& x = problem.axes[2];
  std::vector<AxisCut> cuts[kMaxRank] = {
      axis_cuts(shape, problem.axes[0], 1, 8),
      axis_cuts(shape, problem.axes[1], 1, 32),
      axis_cuts(shape, x, 4, 256),
  };
  const std::vector<Span>& whole_x = cuts[2].back().spans;
  double cycles[2];
  for (int i = 0; i < 2; ++i) {
    double fma = i == 0 ? kFmaCycles2 : kFmaCycles4;
    cycles[i] = static_cast<double>(axis_pairs(shape, x, whole_x, kPlanRows[i])) * fma;
  }
  plan.rows = kPlanRows[cycles[1] <= cycles[0] ? 1 : 0];

  int64_t lines_z = axis_pairs(shape, problem.axes[0], cuts[0].back().spans, 0);
  int64_t lines_y = axis_pairs(shape, problem.axes[1], cuts[1].back().spans, 0);
  plan.useful = lines_z * lines_y * axis_pairs(shape, x, whole_x, 0);

  // Heads that share keys also share what is packed, but their rows add to the tile in the query
  // passes.
  int heads_together = shape.keys_stationary() ? 1 : problem.group();
  int64_t entries = problem.batch * problem.kv_heads;
  // Cycles of the multiply-adds, and the lines that one line of stationary tokens meets.
  double compute = static_cast<double>(lines_z * lines_y) * std::min(cycles[0], cycles[1]) *
                   problem.group() * shape.pair_width() / lanes;
  double lines_met = static_cast<double>(problem.axes[0].window) * problem.axes[1].window;
  double best = std::numeric_limits<double>::infinity();
  const AxisCut* chosen[kMaxRank] = {&cuts[0][0], &cuts[1][0], &cuts[2][0]};
  for (const AxisCut& z : cuts[0]) {
    for (const AxisCut& y : cuts[1]) {
      for (const AxisCut& xs : cuts[2]) {
        int64_t tokens = static_cast<int64_t>(z.box) * y.box * xs.box;
        if (tokens * heads_together > 256 && tokens > 16) continue;
        int64_t tiles = static_cast<int64_t>(z.spans.size()) *
                        static_cast<int64_t>(y.spans.size()) *
                        static_cast<int64_t>(xs.spans.size());
        double packed = static_cast<double>(z.packed) * static_cast<double>(y.packed) *
                        static_cast<double>(xs.packed);
        // A key tile packs the streamed side once for each head of the group.
        double repeats = shape.keys_stationary() ? problem.group() : 1;
        double cost = packed * repeats * shape.packed_width() * kPackCycles +
                      static_cast<double>(tiles) * kTileCycles;
        double tile_tokens =
            static_cast<double>(packed) / static_cast<double>(max_of(1, static_cast<int>(tiles)));
        double chunks =
            1 + tile_tokens * shape.packed_width() * bytes / static_cast<double>(kChunkBytes);
        double groups =
            static_cast<double>(tiles) * static_cast<double>(tokens) / plan.rows * problem.group();
        cost += groups * chunks * kGroupCycles;
        // A sweep along x reads the lines of one window over and over: from the L1 if they fit.
        double sweep = lines_met * widest(xs.spans) * shape.packed_width() * bytes;
        cost += compute * kFarPenalty * (1 - std::min(1.0, static_cast<double>(kL1Bytes) / sweep));
        if (tiles * entries < kTasksWanted)
          cost *= static_cast<double>(kTasksWanted) / static_cast<double>(tiles * entries);
        if (cost < best) {
          best = cost;
          chosen[0] = &z;
          chosen[1] = &y;
          chosen[2] = &xs;
        }
      }
    }
  }
  for (int axis = 0; axis < kMaxRank; ++axis) {
    plan.box[axis] = chosen[axis]->box;
    plan.spans[axis] = chosen[axis]->spans;
    plan.widest[axis] = widest(plan.spans[axis]);
  }
  plan.packed = chosen[0]->packed * chosen[1]->packed * chosen[2]->packed;
  plan.visited = lines_z * lines_y * axis_pairs(shape, x, plan.spans[2], plan.rows);

  int64_t line_bytes = static_cast<int64_t>(shape.packed_width()) * bytes;
  int64_t capacity = std::max<int64_t>(kChunkBytes / std::max<int64_t>(line_bytes, 1), 4 * lanes);
  plan.chunk_columns = static_cast<int>(std::min<int64_t>(max_of(plan.widest[2], 1), capacity));
  int64_t lines = std::max<int64_t>(capacity / plan.pitch(), 1);
  plan.chunk_lines =
      static_cast<int>(std::min<int64_t>(lines, std::max(1, plan.widest[0] * plan.widest[1])));
  return plan;
}

std::string Plan::str() const {
  static const char* const kNames[] = {"forward", "query gradient", "key gradient"};
  std::ostringstream text;
  text << kNames[static_cast<int>(pass)] << ": " << tiles() << " tiles of " << box[0] << "x"
       << box[1] << "x" << box[2] << " tokens meeting at most " << widest[0] << "x" << widest[1]
       << "x" << widest[2] << ", register tiles of " << rows << " rows by " << lanes
       << " lanes, chunks of " << chunk_lines << " lines by " << chunk_columns
       << " columns, visited/useful pairs " << visited << "/" << useful << " = "
       << static_cast<double>(visited) / static_cast<double>(std::max<int64_t>(useful, 1));
  return text.str();
}

}  // namespace jax_na
