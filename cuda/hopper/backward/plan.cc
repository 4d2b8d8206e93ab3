#include "cuda/hopper/backward/plan.h"

#include <algorithm>
#include <vector>

namespace jax_na::cuda {
namespace {

constexpr double kCacheBytes = 45e6;  // of the L2 cache of an H100, nearly all

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
// and sums.
double met_bytes(const Problem& problem, const HopperPlan& plan, int multiprocessors) {
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

bool make_hopper_backward_plan(const Problem& problem, const HopperLimits& limits,
                               int multiprocessors, HopperBackwardPlan& plan) {
  const std::vector<HopperPlan> plans = hopper_plans(problem, limits, multiprocessors, 1);
  if (plans.empty()) return false;
  static_cast<HopperPlan&>(plan) = plans.front();
  constexpr int kFirst[kMaxRank] = {0, 0, 0};
  const Problem first = phase_of(problem, plan.phases, kFirst);
  order_items(first, plan);
  plan.beyond_cache = met_bytes(first, plan, multiprocessors * limits.resident) > kCacheBytes;
  return true;
}

}  // namespace jax_na::cuda
