#include "cuda/hopper/backward/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cuda/hopper/cost.h"

namespace jax_na::cuda {
namespace {

constexpr double kCacheBytes = 45e6;  // of the L2 cache of an H100, nearly all
// Wider heads take so long for a tile that going in step, which keeps what is met together, costs
// more than it saves.
constexpr int kMostInStep = 128;

// Items that run at the same time should meet the same columns, whose sums then stay in the L2
// cache: first come the axes of which a window covers the most.
void order_items(const Problem& problem, HopperPlan& plan) {
  auto covered = [&](int axis) {
    const Axis& of = problem.axes[axis];
    return static_cast<double>(of.window) * of.dilation / of.length;
  };
  std::stable_sort(plan.order, plan.order + kMaxRank,
                   [&](int a, int b) { return covered(a) > covered(b); });
  for (int i = 0; i < kMaxRank; ++i) plan.boxes_along[i] = FastDiv(plan.boxes[plan.order[i]]);
}

// Bytes of the queries that as many items meet as there are multiprocessors, with their cotangents
// and sums, where there are such.
double met_bytes(const Problem& problem, const HopperPlan& plan, bool sums, int multiprocessors) {
  const double bytes = 2 + 2 + (sums ? 4 : 0);
  double items = multiprocessors, queries = 1;
  for (int axis : plan.order) {
    const Axis& of = problem.axes[axis];
    const double side_by_side = std::min(items, static_cast<double>(plan.boxes[axis]));
    items /= side_by_side;
    const double keys = side_by_side * plan.box(axis) + of.window;
    queries *= std::min(keys * of.dilation, static_cast<double>(of.length));
  }
  return queries * problem.head_dim * bytes;
}

// Cuts the queries of a dilation group into parts of at most `wanted` tiles, or little more.
void cut_queries(const Problem& problem, double wanted, HopperBackwardPlan& plan) {
  AdditionalItems& additional = plan.additional;
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const Axis& of = problem.axes[a];
    const int all =
        (of.query_count + of.dilation * plan.columns[a] - 1) / (of.dilation * plan.columns[a]);
    additional.tiles[a] = static_cast<int>(std::max(1.0, std::min<double>(all, wanted)));
    additional.parts[a] = (all + additional.tiles[a] - 1) / additional.tiles[a];
    wanted /= additional.tiles[a];
  }
}

// Cuts the queries so that items of additional keys have about as many tiles as others, into
// `most_parts` at most, and adds what they cost. False where they are more than an int counts.
bool plan_additional(const Problem& problem, const HopperLimits& limits, int multiprocessors,
                     double most_parts, HopperBackwardPlan& plan) {
  constexpr double kFewestTiles = 16;  // what is added up for an item is as much as for two tiles
  AdditionalItems& additional = plan.additional;
  const int rows = limits.warpgroups * plan.row_count();
  additional.boxes = (problem.additional + rows - 1) / rows;
  double wanted = std::max(kFewestTiles, plan.tiles / plan.items / problem.group());
  cut_queries(problem, wanted, plan);
  while (plan.launches() * additional_parts(problem, plan) > most_parts)
    cut_queries(problem, wanted *= 1.25, plan);
  const double boxes = static_cast<double>(problem.batch) * problem.kv_heads * additional.boxes;
  const double count = boxes * additional_parts(problem, plan);
  double tiles = boxes * problem.group();
  for (int a = 0; a < kMaxRank; ++a) {
    const int extent = problem.axes[a].dilation * plan.columns[a];
    tiles *= static_cast<double>((problem.axes[a].query_count + extent - 1) / extent) *
             problem.axes[a].dilation;
  }
  if (count + plan.items > INT32_MAX) return false;
  additional.count = static_cast<int>(count);
  const HopperPrices prices = hopper_prices(limits);
  plan.clocks += plan.launches() * (tiles * prices.tile + count * (prices.item + 2 * prices.tile)) /
                 multiprocessors;
  return true;
}

}  // namespace

double additional_parts(const Problem& launch, const HopperBackwardPlan& plan) {
  double parts = 1;
  for (int a = 0; a < kMaxRank; ++a)
    parts *= static_cast<double>(launch.axes[a].dilation) * plan.additional.parts[a];
  return parts;
}

int64_t most_additional_parts(const Problem& problem) {
  constexpr int64_t kEnough = 16;  // for any GPU, where there are some heads
  int64_t groups = 1;
  for (const Axis& axis : problem.axes) groups *= axis.dilation;
  return std::max(kEnough, groups);
}

bool make_hopper_backward_plan(const Problem& problem, const HopperLimits& limits,
                               int multiprocessors, HopperBackwardPlan& plan) {
  const std::vector<HopperPlan> plans = hopper_plans(problem, limits, multiprocessors, 1);
  if (plans.empty()) return false;
  static_cast<HopperPlan&>(plan) = plans.front();
  constexpr int kFirst[kMaxRank] = {0, 0, 0};
  const Problem first = phase_of(problem, plan.phases, kFirst);
  order_items(first, plan);
  // Where nothing is added up in memory, every part needs memory of its own.
  const double most_parts = limits.pass == HopperPass::kKeyGradient
                                ? static_cast<double>(most_additional_parts(problem))
                                : INFINITY;
  if (first.additional > 0 && !plan_additional(first, limits, multiprocessors, most_parts, plan))
    return false;
  const bool sums = limits.pass == HopperPass::kGradients;
  plan.beyond_cache = limits.head_dim <= kMostInStep &&
                      met_bytes(first, plan, sums, multiprocessors * limits.resident) > kCacheBytes;
  return true;
}

}  // namespace jax_na::cuda
