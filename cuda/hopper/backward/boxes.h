// What boxes of keys meet along each axis, found once for all heads: a description of an item is
// put together from three of these. To find it takes many instructions, which a warp of the main
// kernel, whose other warps use the caches of instructions, took longer for than a short item
// lasts.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/hopper/item.h"

namespace jax_na::cuda {

// A box along one axis. In memory it is followed by what each of its places sees, an Interval.
struct KeyBox {
  AxisItem axis;
  int pairs;  // of tiles, in a line along x
};
constexpr int kKeyBoxWords = sizeof(KeyBox) / sizeof(uint32_t);

// Of all launches: along z, then y, then x; by phase, dilation group, and place.
struct KeyBoxes {
  uint32_t* words;

  // What one takes.
  JAX_NA_INLINE static int stride(const HopperPlan& plan, int axis) {
    return kKeyBoxWords + 2 * plan.box(axis);
  }
  JAX_NA_INLINE static int of_phase(const Problem& problem, const HopperPlan& plan, int axis) {
    return problem.axes[axis].dilation / plan.phases[axis] * plan.boxes[axis];
  }
  JAX_NA_INLINE static int of_axis(const Problem& problem, const HopperPlan& plan, int axis) {
    return plan.phases[axis] * of_phase(problem, plan, axis);
  }
  // The first one of a phase.
  JAX_NA_INLINE uint32_t* first(const Problem& problem, const HopperPlan& plan, int axis,
                                int phase) const {
    int64_t at = static_cast<int64_t>(phase) * of_phase(problem, plan, axis) * stride(plan, axis);
    for (int a = 0; a < axis; ++a)
      at += static_cast<int64_t>(of_axis(problem, plan, a)) * stride(plan, a);
    return words + at;
  }
  // What all take at most, in bytes, whatever the plan.
  static int64_t most_bytes(const Problem& problem) {
    constexpr int64_t kMostRows = kMostWarpgroups * kWarpgroupRows;
    int64_t words = 0;
    for (const Axis& axis : problem.axes) {
      const int64_t places = (axis.key_count + axis.dilation - 1) / axis.dilation;
      words += axis.dilation * (kKeyBoxWords * places + 2 * (places + kMostRows - 1));
    }
    return words * static_cast<int64_t>(sizeof(uint32_t));
  }
};

}  // namespace jax_na::cuda
