// Finds out what a CTA has to do, once, by all its threads.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/place_axis.h"
#include "cuda/plan.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

template <Side kStationary>
__device__ inline Interval seen_by(const Rule& rule, int position) {
  auto seen = [&](const Rule& by) {
    return kStationary == Side::kQueries ? by.window_of(position) : by.queries_of(position);
  };
  if (rule.stride != 1) return seen(rule);
  // Without a division.
  return seen({rule.length, rule.window, 1, rule.causal, rule.boundary});
}

// What some, and what every, position of a box sees, which is not empty. One copy of code serves
// both ends: a CTA cannot begin before it has read all of this.
struct SeenByBox {
  Interval some, every;
};
template <Side kStationary>
__device__ inline SeenByBox seen_by_box(const Rule& rule, Interval box) {
  SeenByBox all{};
#pragma unroll 1
  for (int position = box.begin;; position = box.end - 1) {
    const Interval seen = seen_by<kStationary>(rule, position);
    if (position == box.begin) {
      all.some.begin = seen.begin;
      all.every.end = seen.end;
    }
    if (position == box.end - 1) {
      all.every.begin = seen.begin;
      all.some.end = seen.end;
      return all;
    }
  }
}

template <Side kStationary>
__device__ inline AxisWork axis_work(const Axis& axis, int group, int begin, int box) {
  AxisWork work;
  work.rule = axis.rule(group);
  work.modular = axis.modular();
  if (axis.query_count == axis.length && axis.key_count == axis.length) {
    work.stationary = work.streamed = {0, work.rule.length, group, axis.dilation};
  } else {
    const Held queries = axis.queries(group), keys = axis.keys(group);
    work.stationary = kStationary == Side::kQueries ? queries : keys;
    work.streamed = kStationary == Side::kQueries ? keys : queries;
  }
  Interval held = work.stationary.positions();
  work.box = Interval{held.begin + begin, held.begin + begin + box}.clipped(held);
  work.met = {0, 0};
  if (work.box.size() > 0) {
    work.met = seen_by_box<kStationary>(work.rule, work.box).some;
    if (!work.modular) work.met = work.met.clipped(work.streamed.positions());
  }
  return work;
}

// The logarithm of a number of warps along an axis, which is a power of two.
__device__ __forceinline__ int log2_of(int warps) {
  static_assert(kMaxWarps <= 8);
  return (warps > 1) + (warps > 2) + (warps > 4);
}

// The parts of what a CTA has to do, in the order in which they can be found, each by threads that
// have nothing else to find at that time.

// Fills work.axis, by the first threads. `block` is the CTA's index among the boxes of all dilation
// groups.
template <Side kStationary>
__device__ __forceinline__ void find_axes(const Problem& problem, const int32_t* origins,
                                          const Sweep& sweep, int block, Work& work) {
  const int thread = threadIdx.x;
  if (thread < kMaxRank) {
    const int x = sweep.boxes_x.split(block), y = sweep.boxes_y.split(block);
    const int z = sweep.boxes_z.split(block);
    const int group_x = sweep.group_x.split(block), group_y = sweep.group_y.split(block);
    const int place = thread == 2 ? x : thread == 1 ? y : z;
    const int group = thread == 2 ? group_x : thread == 1 ? group_y : block;
    const int box = sweep.box(thread);
    work.axis[thread] =
        axis_work<kStationary>(place_axis(problem, origins, thread), group, place * box, box);
  }
}

// Fills what its warps see, from its axes, by the last threads.
template <Side kStationary>
__device__ __forceinline__ void find_warps(const Sweep& sweep, Work& work) {
  const int from_last = static_cast<int>(blockDim.x) - 1 - static_cast<int>(threadIdx.x);
  if (from_last < kMaxRank * sweep.warp_count) {
    const int axis = from_last % kMaxRank;
    const int warp = from_last / kMaxRank;
    const int behind = axis == 2 ? 1 : axis == 1 ? sweep.warps[2] : sweep.warps[2] * sweep.warps[1];
    const int place = warp >> log2_of(behind) & (sweep.warps[axis] - 1);
    WarpWork& mine = work.warp[warp];
    const AxisWork& at = work.axis[axis];
    const int begin = at.box.begin + place * sweep.warp_box[axis];
    Interval box = Interval{begin, begin + sweep.warp_box[axis]}.clipped(at.box);
    mine.need[axis] = mine.sure[axis] = {0, 0};
    if (box.size() > 0) {
      const SeenByBox seen = seen_by_box<kStationary>(at.rule, box);
      mine.need[axis] = seen.some.clipped(at.met);
      mine.sure[axis] = seen.every.clipped(at.met);
      // A row of fragments that holds no token sees nothing, so nothing is sure.
      if (box.size() < sweep.warp_box[axis]) mine.sure[axis] = {0, 0};
    }
  }
}

// Fills work.stages from its axes, by a thread in the middle.
template <Side kStationary>
__device__ __forceinline__ void find_stages(const Problem& problem, const Sweep& sweep,
                                            Work& work) {
  if (static_cast<int>(threadIdx.x) == static_cast<int>(blockDim.x) / 2) {
    Stages& stages = work.stages;
    stages.windows = 1;
    for (int a = 0; a < kMaxRank; ++a) {
      const Interval met = work.axis[a].met;
      stages.begin[a] = met.begin;
      stages.count[a] =
          met.size() <= sweep.stage[a] ? 1 : (met.size() + sweep.stage[a] - 1) / sweep.stage[a];
      stages.windows *= stages.count[a];
    }
    stages.line_rows = sweep.stage_rows;
    const int line = kStationary == Side::kQueries ? problem.additional : 0;
    stages.total = stages.windows + (line + stages.line_rows - 1) / stages.line_rows;
  }
}

// Fills its rows from its axes, by the first threads.
template <Side kStationary>
__device__ __forceinline__ void find_rows(const Problem& problem, const Sweep& sweep,
                                          const Work& work, RowWork* rows) {
  for (int row = threadIdx.x; row < sweep.rows; row += blockDim.x) {
    static_assert(kRowsPerFragment == 16);
    const int warp = row >> (sweep.row_tiles == 2 ? 5 : 4);
    int within = row - warp * sweep.warp_rows();
    const int of_x = log2_of(sweep.warps[2]), of_y = log2_of(sweep.warps[1]);
    const int x = (warp & (sweep.warps[2] - 1)) * sweep.warp_box[2] + sweep.box_x.split(within);
    const int y =
        (warp >> of_x & (sweep.warps[1] - 1)) * sweep.warp_box[1] + sweep.box_y.split(within);
    const int z = (warp >> (of_x + of_y)) * sweep.warp_box[0] + within;
    const bool holds = within < sweep.warp_box[0] && z < work.axis[0].box.size() &&
                       y < work.axis[1].box.size() && x < work.axis[2].box.size();
    RowWork& mine = rows[row];
    int token = 0, bias = 0;
#pragma unroll 1
    for (int a = 0; a < kMaxRank; ++a) {
      const AxisWork& at = work.axis[a];
      const Axis& axis = problem.axes[a];
      const int position = at.box.begin + (a == 2 ? x : a == 1 ? y : z);
      mine.seen[a] = {0, 0};
      if (holds) mine.seen[a] = seen_by<kStationary>(at.rule, position).clipped(at.met);
      const int count = kStationary == Side::kQueries ? axis.query_count : axis.key_count;
      token = token * count + (holds ? at.stationary.token(position) : 0);
      // Bias index: key - query + window - 1 on every axis.
      const int sign = kStationary == Side::kQueries ? -1 : 1;
      bias = bias * (2 * axis.window - 1) + sign * position + axis.window - 1;
    }
    mine.token = holds ? token : -1;
    mine.bias = bias;
  }
}

// Fills `work` and the CTA's rows. Every thread calls it; on return the results are visible to all.
template <Side kStationary>
__device__ void find_work(const Problem& problem, const int32_t* origins, const Sweep& sweep,
                          int block, Work& work, RowWork* rows) {
  find_axes<kStationary>(problem, origins, sweep, block, work);
  __syncthreads();
  if (work.empty()) return;
  find_warps<kStationary>(sweep, work);
  find_stages<kStationary>(problem, sweep, work);
  find_rows<kStationary>(problem, sweep, work, rows);
  __syncthreads();
  const int thread = threadIdx.x;
  if (thread < sweep.warp_count) {
    WarpWork& mine = work.warp[thread];
    bool only = work.stages.total == 1;
    for (int a = 0; a < kMaxRank; ++a) {
      const int size = mine.need[a].size();
      only = only && size > 0 && size <= sweep.tile[a];
    }
    mine.only = only;
  }
  __syncthreads();
}

}  // namespace jax_na::cuda
