// Items of additional keys, which every query sees: a box of them, and a part of all tiles of
// queries. Their gradients are sums over several items: what adds them up in memory does so in any
// order, and where runs are to agree each item leaves what it has found to be added up later.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/ptx/lane.h"

namespace jax_na::cuda {

// Describes the `index`th item of additional keys in `slot`, by all lanes; false where its part of
// the queries has none of a dilation group.
template <typename Shape>
__device__ inline bool describe_additional(const HopperBackwardPlan& plan, const Problem& problem,
                                           HopperBackwardControl<Shape>& control, int slot,
                                           int index) {
  const int lane = ptx::lane();
  HopperItem& item = control.items[slot];
  auto take = [&](int count) {
    const int place = index % count;
    index /= count;
    return place;
  };
  int windows = 1, parts = 1;
  const int all_parts = index;
  bool exists = true;
#pragma unroll 1  // few registers are left
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& of = problem.axes[a];
    const int group = take(of.dilation);
    const int first = take(plan.additional.parts[a]) * plan.additional.tiles[a];
    if constexpr (!Shape::kSums) parts *= of.dilation * plan.additional.parts[a];
    const int extent = of.dilation * plan.columns[a];
    const int all = ceil_div(max(of.query_count - group, 0), extent);
    const int tiles = min(plan.additional.tiles[a], all - first);
    exists = exists && tiles > 0;
    windows *= tiles;
    if (lane == a) {
      item.axis[a].tiles = item.axis[a].seam_tiles = tiles;
      item.axis[a].column = group + first * extent;
    }
  }
  const int part = all_parts - index * parts;
  const int box = take(plan.additional.boxes);
  const int head = take(problem.kv_heads);
  if (exists && lane == 0) {
    item.entry = index;
    item.head = head;
    item.windows = windows;
    item.total = windows * problem.group();
    item.pairs = 0;
    item.last = false;
    control.additional[slot] = box * Shape::kRowGroups * plan.row_count();
    if constexpr (!Shape::kSums) control.part[slot] = part;
  }
  __syncwarp();
  return exists;
}

// Adds what a warpgroup has of the gradients of the additional keys from `first` on, and of their
// values, to what other items have found, of features from `column` on; or writes it to the place
// of a part.
template <bool kAdd, int kCount>
__device__ __forceinline__ void add_gradients(const HopperBackwardArguments& arguments,
                                              const HopperItem& item, int part, int first,
                                              int column, const float (&dkey)[kCount],
                                              const float (&dvalue)[kCount]) {
  const Problem& problem = arguments.problem;
  const int thread = ptx::thread() % 128, lane = thread % 32;
  const int64_t values = problem.batch * problem.additional * problem.kv_heads * problem.head_dim;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = thread / 32 * 16 + 8 * r + lane / 4, key = first + row;
    if (row >= arguments.plan.row_count() || key >= problem.additional) continue;
    const int64_t at =
        (static_cast<int64_t>(item.entry) * problem.additional + key) * problem.kv_heads +
        item.head;
    float* to = arguments.additional_sums + at * problem.head_dim + column + 2 * (lane % 4);
    if constexpr (!kAdd) to += 2 * values * part;
#pragma unroll
    for (int n = 0; n < kCount / 4; ++n) {
      if (column + 8 * n >= problem.head_dim) break;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (kAdd) {
          atomicAdd(to + 8 * n + i, dkey[4 * n + 2 * r + i]);
          atomicAdd(to + values + 8 * n + i, dvalue[4 * n + 2 * r + i]);
        } else {
          to[8 * n + i] = dkey[4 * n + 2 * r + i];
          to[values + 8 * n + i] = dvalue[4 * n + 2 * r + i];
        }
      }
    }
  }
}

}  // namespace jax_na::cuda
