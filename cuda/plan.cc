#include "cuda/plan.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "cuda/forward/stage_list.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {
namespace {

int pow2_at_least(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

int div_up(int a, int b) {
  return (a + b - 1) / b;
}

// Streamed positions that a box of stationary ones meets: the most, and the mean.
struct Met {
  int most = 0;
  double mean = 0;
};

// One axis of the problem, seen from one pass.
class AxisMeetings {
 public:
  AxisMeetings(const Axis& axis, Pass pass)
      : axis_(axis),
        by_key_(pass == Pass::kKeyGradient),
        whole_(axis.query_count == axis.length && axis.key_count == axis.length) {
    const int count = by_key_ ? axis.key_count : axis.query_count;
    positions_ = div_up(count, axis.dilation);
  }

  // Stationary positions of the longest dilation group.
  int positions() const { return positions_; }
  int dilation() const { return axis_.dilation; }

  Met of(int box) {
    auto found = known_.find(box);
    if (found != known_.end()) return found->second;
    Met met;
    int64_t sum = 0, boxes = 0;
    // Dilation groups have one of two lengths. A slab may begin anywhere.
    for (int group : {0, axis_.dilation - 1}) {
      const Rule rule = axis_.rule(group);
      for (int begin = 0; begin < rule.length; begin += whole_ ? box : 1) {
        const Interval at{begin, std::min(begin + box, rule.length)};
        const int size = (by_key_ ? rule.queries_union(at) : rule.window_union(at)).size();
        met.most = std::max(met.most, size);
        sum += size;
        ++boxes;
      }
    }
    met.mean = static_cast<double>(sum) / static_cast<double>(std::max<int64_t>(boxes, 1));
    known_.emplace(box, met);
    return met;
  }

 private:
  Axis axis_;
  bool by_key_;
  bool whole_;
  int positions_ = 0;
  std::map<int, Met> known_;
};

// Prices in clocks of one SM; see docs/kernels.md.
constexpr double kClocksPerChunkLoaded = 0.8;  // 16 bytes of a row of each of two tensors
constexpr double kClocksPerProduct = 1.5;      // an m16n8k16 product, or the like
constexpr double kClocksPerScores = 14.0;      // softmax of 16 rows and 16 columns
constexpr double kClocksPerTile = 30.0;        // a warp's own work for a tile
constexpr double kChunkByChunk = 1.3;          // where a tile does not fill the forward kernel's
constexpr double kClocksPerStage = 250.0;      // two barriers and a wait
constexpr double kClocksPerStart = 3000.0;     // of a CTA, before its first item
constexpr double kClocksPerItem = 500.0;
constexpr double kClocksPerStreamedItem = 17000.0;  // masks at the ends of its stages included
constexpr double kClocksPerOwnLoad = 1500.0;  // an item's stationary rows, where nothing covers it
// Of a kernel of one tile: fitted to 229 plans of eight problems, which they predict within 9 %.
constexpr double kClocksPerOnlyTile = 103.0;
constexpr double kClocksPerOnlyChunk = 6.0;  // of 16 columns, and with each feature
constexpr double kClocksPerOnlyFeature = 1.05;
constexpr double kClocksPerOnlyItem = 1850.0;
constexpr double kOnlyExposed = 2.26;  // of loads with one buffer, over CTAs
constexpr double kCostOfOnlyMissingWarp = 0.012;
constexpr double kCostOfFewCtas = 0.13;       // over those of a multiprocessor
constexpr double kCostOfNarrowBox = 0.08;     // of a warp, over its last axis
constexpr double kStreamedByWarpsOf16 = 1.5;  // rows, at 64 features and more
constexpr double kCostOfMissingWarp = 0.05;   // of 16 that hide each other's latency, or of 8
constexpr int kSms = 132;

struct Search {
  const Problem& problem;
  Pass pass;
  const KernelLimits& limits;
  AxisMeetings axes[kMaxRank];
  double best_cost = 1e300;
  Sweep best;

  Search(const Problem& p, Pass which, const KernelLimits& l)
      : problem(p),
        pass(which),
        limits(l),
        axes{{p.axes[0], which}, {p.axes[1], which}, {p.axes[2], which}} {}

  int row_bytes() const { return limits.head_dim * limits.element_bytes; }

  SharedMap lay_out(const Sweep& sweep) const {
    auto align = [](int bytes) { return (bytes + 127) / 128 * 128; };
    const int tensors = pass == Pass::kForward ? 1 : 2;  // stationary ones
    const int scalars = pass == Pass::kKeyGradient ? sweep.buffers * sweep.stage_rows * 8 : 0;
    SharedMap map;
    map.stationary_bytes = sweep.rows * row_bytes();
    map.stage = map.stationary + sweep.own_buffers * tensors * map.stationary_bytes;
    map.stage_bytes = align(sweep.stage_rows * row_bytes());
    map.scalars = map.stage + 2 * sweep.buffers * map.stage_bytes;
    map.tokens = map.scalars + align(scalars);
    map.places = map.tokens + align(2 * sweep.stage_rows * static_cast<int>(sizeof(int)));
    map.shares = map.places + align(sweep.stage_rows * static_cast<int>(sizeof(Place)));
    map.columns =
        map.shares + align(kStepsKnown * sweep.stage_extents * static_cast<int>(sizeof(int)));
    map.rows = map.columns + align(limits.columns_bytes);
    map.work = map.rows + align(sweep.rows * static_cast<int>(sizeof(RowWork)));
    map.list = map.work + align(static_cast<int>(sizeof(Work)));
    map.total = map.list + (limits.streams ? align(static_cast<int>(sizeof(StageList))) : 0);
    return map;
  }

  void consider(Sweep sweep) {
    const bool forward = pass == Pass::kForward;
    sweep.set_sizes();
    sweep.map = lay_out(sweep);
    if (sweep.map.total > limits.shared_bytes) return;
    const int warps = sweep.warp_count;
    const double items = static_cast<double>(problem.batch) *
                         (pass == Pass::kKeyGradient ? problem.kv_heads : problem.heads);
    double boxes = 1, stages = 1, tiles = 1;
    for (int a = 0; a < kMaxRank; ++a) {
      boxes *= static_cast<double>(sweep.boxes[a]) * axes[a].dilation();
      const Met met = axes[a].of(sweep.box(a));
      const double need = axes[a].of(sweep.warp_box[a]).mean;
      const bool whole = sweep.stage[a] >= met.most;
      stages *= whole ? 1.0 : std::max(1.0, (met.mean + sweep.stage[a] - 1) / sweep.stage[a]);
      // A tile grid that begins where the CTA's union does cuts a warp's own in one place more.
      tiles *= whole ? std::max(1.0, (need + sweep.tile[a] - 1) / sweep.tile[a])
                     : std::min(std::max(1.0, met.mean / sweep.stage[a]), need / sweep.tile[a]) + 1;
    }
    const double chunks = div_up(sweep.row_tiles > 1 ? limits.block : sweep.tile_size, 16);
    const double steps = limits.head_dim * limits.element_bytes / 32.0;
    const double products = (forward ? 2 : pass == Pass::kQueryGradient ? 3 : 4) * 2 * steps;
    const double matrix = sweep.row_tiles * products * kClocksPerProduct;
    const double reads = (forward ? 1.0 : 1.6) * 32 * row_bytes() / 128.0;
    const double chunk = std::max(matrix + sweep.row_tiles * kClocksPerScores, reads);
    const bool whole = !forward || div_up(limits.block, 16) == chunks;
    const double compute =
        limits.one_tile
            ? warps * (limits.block / 16 *
                           (kClocksPerOnlyChunk + kClocksPerOnlyFeature * limits.head_dim) +
                       kClocksPerOnlyTile)
            : warps * tiles * ((whole ? 1.0 : kChunkByChunk) * chunks * chunk + kClocksPerTile);
    const double loaded = stages * sweep.stage[0] * sweep.stage[1] * sweep.stage[2] *
                          (row_bytes() / 16.0) * kClocksPerChunkLoaded;
    // Few CTAs on an SM leave the loads of one uncovered by the work of another.
    const int resident = std::max(
        1, std::min(limits.sm_shared_bytes / (sweep.map.total + 1024), limits.sm_warps / warps));
    // Items that a CTA goes through when the GPU is filled once.
    const double share = std::max(1.0, std::min(boxes * items / (kSms * resident), items));
    const int missing = std::max(0, (limits.streams ? 8 : 16) - resident * warps);
    double cost = compute;
    if (limits.one_tile) {
      const double exposed = sweep.buffers == 2 ? 0.0 : kOnlyExposed / resident;
      cost += loaded * (0.5 + exposed) + (kClocksPerOnlyItem + kClocksPerStart / share) / resident;
      cost *= 1.0 + kCostOfOnlyMissingWarp * missing + kCostOfFewCtas / resident +
              kCostOfNarrowBox / sweep.warp_box[2];
    } else {
      const double exposed = sweep.buffers == 2 || limits.streams ? 0.2 : 1.0 / resident;
      const double item = limits.streams ? kClocksPerStreamedItem : kClocksPerItem;
      cost += loaded * (0.5 + exposed) + stages * kClocksPerStage / resident +
              (item + kClocksPerStart / share) / resident;
      if (sweep.own_buffers < sweep.buffers) cost += kClocksPerOwnLoad / resident;
      if (forward && sweep.streamed && sweep.row_tiles == 1 && limits.head_dim >= 64)
        cost *= kStreamedByWarpsOf16;
      cost *= 1.0 + kCostOfMissingWarp * missing;
    }
    cost *= std::max(boxes * items / kSms, 1.0);
    if (cost < best_cost) {
      best_cost = cost;
      best = sweep;
    }
  }

  // The whole of what a CTA meets in one stage.
  void resident(Sweep sweep) {
    int need[kMaxRank];
    for (int a = 0; a < kMaxRank; ++a) {
      sweep.stage[a] = axes[a].of(sweep.box(a)).most;
      need[a] = std::min(axes[a].of(sweep.warp_box[a]).most, sweep.stage[a]);
      if (sweep.stage[a] == 0) return;
    }
    const int64_t rows = static_cast<int64_t>(sweep.stage[0]) * sweep.stage[1] * sweep.stage[2];
    if (rows * 2 * row_bytes() > limits.shared_bytes) return;
    sweep.buffers = sweep.own_buffers = 1;
    const bool one = need[0] * need[1] * need[2] <= limits.block;
    if (limits.one_tile && !one) return;
    int fewest = -1;
    for (int cz = 1; cz <= (limits.one_tile ? 1 : need[0]); ++cz) {
      for (int cy = 1; cy <= (limits.one_tile ? 1 : need[1]); ++cy) {
        const int z = div_up(need[0], cz), y = div_up(need[1], cy);
        if (z * y > limits.block) continue;
        const int cx = div_up(need[2], std::max(1, std::min(need[2], limits.block / (z * y))));
        const int x = div_up(need[2], cx);
        const int cost = cz * cy * cx * (div_up(z * y * x, 16) * 16 + 12);
        if (fewest < 0 || cost < fewest) {
          fewest = cost;
          sweep.tile[0] = z, sweep.tile[1] = y, sweep.tile[2] = x;
        }
      }
    }
    if (fewest < 0) return;
    // Lines a tile's width apart, modulo 8 rows, spread ldmatrix over all banks.
    sweep.pitch = sweep.stage[2];
    if (sweep.tile[1] * sweep.tile[0] > 1) {
      Sweep padded = sweep;
      while (padded.pitch % 8 != padded.tile[2] % 8) ++padded.pitch;
      if (padded.pitch <= sweep.stage[2] + sweep.stage[2] / 3) sweep = padded;
    }
    consider(sweep);
    sweep.buffers = sweep.own_buffers = 2;
    consider(sweep);
  }

  // Stage after stage, each one tile for all warps.
  void streamed(Sweep sweep) {
    if (limits.one_tile) return;
    sweep.buffers = limits.streams ? 1 : 2;
    int block = 1;
    while (2 * block <= limits.block) block *= 2;
    for (int x = 1; x <= block; x *= 2) {
      for (int y = 1; x * y <= block; y *= 2) {
        const int z = block / (x * y);
        const int extents[] = {z, y, x};
        bool fits = true;
        for (int a = 0; a < kMaxRank; ++a) {
          const int most = axes[a].of(sweep.box(a)).most;
          fits = fits && (extents[a] == 1 || extents[a] < 2 * most);
          sweep.stage[a] = sweep.tile[a] = extents[a];
        }
        if (!fits) continue;
        sweep.pitch = sweep.stage[2];
        for (sweep.own_buffers = 1; sweep.own_buffers <= sweep.buffers; ++sweep.own_buffers)
          consider(sweep);
      }
    }
  }

  void run() {
    int most[kMaxRank];
    for (int a = 0; a < kMaxRank; ++a) most[a] = pow2_at_least(axes[a].positions());
    Sweep sweep;
    sweep.row_tiles = limits.row_tiles;
    const int rows = sweep.warp_rows();
    for (int x = 1; x <= rows; x *= 2) {
      for (int y = 1; x * y <= rows; y *= 2) {
        const int z = rows / (x * y);
        // A box may be wider than the axis only where no axis is left to grow along.
        if (x > std::max(most[2], 1) && x > rows / (most[0] * most[1])) continue;
        if (y > most[1] || z > most[0]) continue;
        sweep.warp_box[0] = z, sweep.warp_box[1] = y, sweep.warp_box[2] = x;
        for (int wx = 1; wx <= kMaxWarps; wx *= 2) {
          for (int wy = 1; wx * wy <= kMaxWarps; wy *= 2) {
            for (int wz = 1; wx * wy * wz <= kMaxWarps; wz *= 2) {
              if ((wy > 1 && wy * y > most[1]) || (wz > 1 && wz * z > most[0])) continue;
              // Where the number of warps is given they may go beyond the axes, likewise.
              const bool given = limits.streams && 2 * wy * y > most[1] && 2 * wz * z > most[0];
              if (wx > 1 && wx * x > most[2] && !given) continue;
              if (limits.streams && wx * wy * wz != kStreamedWarps) continue;
              sweep.warps[0] = wz, sweep.warps[1] = wy, sweep.warps[2] = wx;
              for (int a = 0; a < kMaxRank; ++a)
                sweep.boxes[a] = std::max(1, div_up(axes[a].positions(), sweep.box(a)));
              if (!limits.streams) resident(sweep);
              streamed(sweep);
            }
          }
        }
      }
    }
  }
};

}  // namespace

double make_sweep(const Problem& problem, Pass pass, const KernelLimits& limits, Sweep& sweep) {
  const int64_t query_rows = problem.query_tokens() * problem.heads;
  const int64_t key_rows = problem.key_tokens() * problem.kv_heads;
  if (limits.one_tile && (problem.bias_batch > 0 || problem.additional > 0 ||
                          problem.batch * std::max(query_rows, key_rows) > UINT32_MAX))
    return -1;
  Search search(problem, pass, limits);
  search.run();
  if (search.best_cost >= 1e300) return -1;
  sweep = search.best;
  sweep.box_y = FastDiv(sweep.warp_box[1]);
  sweep.box_x = FastDiv(sweep.warp_box[2]);
  sweep.boxes_z = FastDiv(sweep.boxes[0]);
  sweep.boxes_y = FastDiv(sweep.boxes[1]);
  sweep.boxes_x = FastDiv(sweep.boxes[2]);
  sweep.group_y = FastDiv(problem.axes[1].dilation);
  sweep.group_x = FastDiv(problem.axes[2].dilation);
  sweep.stage_y = FastDiv(sweep.stage[1]);
  sweep.pitch_x = FastDiv(sweep.pitch);
  sweep.tile_y = FastDiv(sweep.tile[1]);
  sweep.tile_x = FastDiv(sweep.tile[2]);
  sweep.head_group = FastDiv(problem.group());
  sweep.group = problem.group();
  sweep.query_rows = static_cast<uint32_t>(query_rows);
  sweep.key_rows = static_cast<uint32_t>(key_rows);
  return search.best_cost;
}

std::string str(const Sweep& s) {
  char text[256];
  std::snprintf(text, sizeof text,
                "warp %dx%dx%d, warps %dx%dx%d, boxes %dx%dx%d, stage %dx%dx%d pitch %d x%d/%d, "
                "tile %dx%dx%d, row tiles %d, sharers %d",
                s.warp_box[0], s.warp_box[1], s.warp_box[2], s.warps[0], s.warps[1], s.warps[2],
                s.boxes[0], s.boxes[1], s.boxes[2], s.stage[0], s.stage[1], s.stage[2], s.pitch,
                s.buffers, s.own_buffers, s.tile[0], s.tile[1], s.tile[2], s.row_tiles, s.sharers);
  return text;
}

}  // namespace jax_na::cuda
