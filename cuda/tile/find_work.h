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
  return kStationary == Side::kQueries ? rule.window_of(position) : rule.queries_of(position);
}

template <Side kStationary>
__device__ inline AxisWork axis_work(const Axis& axis, int group, int begin, int box) {
  AxisWork work;
  work.rule = axis.rule(group);
  work.modular = axis.modular();
  Held queries = axis.queries(group), keys = axis.keys(group);
  work.stationary = kStationary == Side::kQueries ? queries : keys;
  work.streamed = kStationary == Side::kQueries ? keys : queries;
  Interval held = work.stationary.positions();
  work.box = Interval{held.begin + begin, held.begin + begin + box}.clipped(held);
  work.met = {0, 0};
  if (work.box.size() > 0) {
    work.met = {seen_by<kStationary>(work.rule, work.box.begin).begin,
                seen_by<kStationary>(work.rule, work.box.end - 1).end};
    if (!work.modular) work.met = work.met.clipped(work.streamed.positions());
  }
  return work;
}

// Fills `work` and the CTA's rows. `block` is the CTA's index among the boxes of all dilation
// groups. Every thread calls it; on return the results are visible to all.
template <Side kStationary>
__device__ void find_work(const Problem& problem, const int32_t* origins, const Sweep& sweep,
                          int block, Work& work, RowWork* rows) {
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
  __syncthreads();
  if (work.empty()) return;

  if (thread < kMaxRank * sweep.warp_count) {
    const int axis = thread % kMaxRank;
    const int warp = thread / kMaxRank;
    const int behind = axis == 2 ? 1 : axis == 1 ? sweep.warps[2] : sweep.warps[2] * sweep.warps[1];
    const int place = warp / behind % sweep.warps[axis];
    WarpWork& mine = work.warp[warp];
    const AxisWork& at = work.axis[axis];
    const int begin = at.box.begin + place * sweep.warp_box[axis];
    Interval box = Interval{begin, begin + sweep.warp_box[axis]}.clipped(at.box);
    mine.need[axis] = mine.sure[axis] = {0, 0};
    if (box.size() > 0) {
      Interval first = seen_by<kStationary>(at.rule, box.begin);
      Interval last = seen_by<kStationary>(at.rule, box.end - 1);
      mine.need[axis] = Interval{first.begin, last.end}.clipped(at.met);
      mine.sure[axis] = Interval{last.begin, first.end}.clipped(at.met);
      // A row of fragments that holds no token sees nothing, so nothing is sure.
      if (box.size() < sweep.warp_box[axis]) mine.sure[axis] = {0, 0};
    }
  }
  if (thread == static_cast<int>(blockDim.x) - 1) {
    Stages& stages = work.stages;
    stages.windows = 1;
    for (int a = 0; a < kMaxRank; ++a) {
      const Interval met = work.axis[a].met;
      stages.begin[a] = met.begin;
      stages.count[a] = max((met.size() + sweep.stage[a] - 1) / sweep.stage[a], 1);
      stages.windows *= stages.count[a];
    }
    stages.line_rows = sweep.stage_rows;
    const int line = kStationary == Side::kQueries ? problem.additional : 0;
    stages.total = stages.windows + (line + stages.line_rows - 1) / stages.line_rows;
  }
  for (int row = thread; row < sweep.rows; row += blockDim.x) {
    int warp = row / sweep.warp_rows(), within = row % sweep.warp_rows();
    int place[kMaxRank], position[kMaxRank];
    place[2] = warp % sweep.warps[2] * sweep.warp_box[2] + sweep.box_x.split(within);
    place[1] =
        warp / sweep.warps[2] % sweep.warps[1] * sweep.warp_box[1] + sweep.box_y.split(within);
    place[0] = warp / (sweep.warps[2] * sweep.warps[1]) * sweep.warp_box[0] + within;
    RowWork mine{0, 0, {}};
    bool holds = within < sweep.warp_box[0];
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const AxisWork& at = work.axis[a];
      position[a] = at.box.begin + place[a];
      holds = holds && position[a] < at.box.end;
    }
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const AxisWork& at = work.axis[a];
      mine.seen[a] = {0, 0};
      if (holds) mine.seen[a] = seen_by<kStationary>(at.rule, position[a]).clipped(at.met);
      const Axis& axis = problem.axes[a];
      const int count = kStationary == Side::kQueries ? axis.query_count : axis.key_count;
      mine.token = mine.token * count + (holds ? at.stationary.token(position[a]) : 0);
      // Bias index: key - query + window - 1 on every axis.
      const int sign = kStationary == Side::kQueries ? -1 : 1;
      mine.bias = mine.bias * (2 * axis.window - 1) + sign * position[a] + axis.window - 1;
    }
    if (!holds) mine.token = -1;
    rows[row] = mine;
  }
  __syncthreads();
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
