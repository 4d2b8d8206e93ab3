// The slots of a window: the order in which scores and weights lie in memory.
//
// The slots of a query come row-major over the axes of its window, additional tokens after them.
// Slot t of an axis is the key at the window's start + t, where a window that is cut ("clip",
// causal) starts as if it were not. Slots of keys that do not exist, or that a causal query does
// not see, are invisible.
#pragma once

#include <cstdint>

#include "cuda/naive/box.h"

namespace jax_na::cuda::naive {

// Slots of a query's window, without additional tokens.
JAX_NA_INLINE int64_t window_slots(const Problem& problem) {
  int64_t count = 1;
  for (const Axis& axis : problem.axes) count *= axis.window;
  return count;
}

// Along one axis, the slot of number i of a query's reach, or the one that a key is in, of the
// query that is number i of the key's.
template <Side kOwn>
__device__ __forceinline__ int slot_of(const Axis& axis, const Reach& reach, int i) {
  const Rule rule{reach.length, axis.window, axis.stride, axis.causal, axis.boundary};
  const int met = reach.own + reach.distance + i;
  const int query = kOwn == Side::kQueries ? reach.own : met;
  const int key = kOwn == Side::kQueries ? met : reach.own;
  int first;
  if (rule.causal)
    first = rule.lead(query) - rule.window + 1;
  else if (rule.boundary == Boundary::kClip)
    first = rule.lead(query) - rule.left();
  else
    first = rule.window_of(query).begin;
  return key - first;
}

// The slot of number i of a batch.
template <Side kOwn>
__device__ __forceinline__ int64_t slot_of(const Problem& problem, const Box& box,
                                           const Batch& batch, int i) {
  const Axis* axes = problem.axes;
  const int64_t z = slot_of<kOwn>(axes[0], box.axis[0], batch.z);
  const int64_t y = slot_of<kOwn>(axes[1], box.axis[1], batch.y);
  const int64_t x = slot_of<kOwn>(axes[2], box.axis[2], batch.x + i);
  return (z * axes[1].window + y) * axes[2].window + x;
}

// All slots of the windows, visible or not.
__device__ __forceinline__ Span slot_span(const Problem& problem, const Box& box) {
  Span span;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    span.begin[a] = -slot_of<Side::kQueries>(problem.axes[a], box.axis[a], 0);
    span.count[a] = problem.axes[a].window;
  }
  return span;
}

}  // namespace jax_na::cuda::naive
