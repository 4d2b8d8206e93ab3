// Finds what a StageList holds.
#pragma once

#include <cstdint>

#include "cuda/forward/stage_list.h"
#include "cuda/launch.h"
#include "cuda/ptx/lane.h"
#include "cuda/tile/bias.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/load.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// By one thread for each axis.
__device__ inline void find_key_axis(const Problem& problem, const Work& work, int axis,
                                     KeyAxis& to) {
  const AxisWork& at = work.axis[axis];
  int stride = 1;
  for (int a = axis + 1; a < kMaxRank; ++a) stride *= problem.axes[a].key_count;
  to.end = at.met.end;
  to.length = at.modular ? at.rule.length : 0;
  to.factor = at.streamed.step * stride;
  to.addend = (at.streamed.offset - at.streamed.begin * at.streamed.step) * stride;
}

// What the rows of a stage add to its token. Every thread calls it.
template <int kApart>
__device__ inline void prepare_row_shares(const Place* places, const KeyStage& stage,
                                          StageList& list) {
  const int row = ptx::thread();
  if (row >= kStreamedBlock) return;
  int share = stage.line > 0 ? row : 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int length = list.axes[a].length, place = places[row].at[a];
    // At most a period off, on either side.
    const int position = stage.origin[a] + place;
    const int periods = length == 0 ? 0 : position < 0 ? 1 : position >= length ? -1 : 0;
    if (stage.line == 0) share += (place + periods * length) * list.axes[a].factor;
  }
  list.shares[stage.shares].of_row[RowShares::at(row, kApart)] = share;
}

// Describes batch number `batch` of an item's stages, which behind the last is the first again, in
// one half of the list. Every thread calls it: each lane has a stage, of which each warp finds what
// it sees, and the first two find the rest.
__device__ inline void find_stages(const Problem& problem, const Sweep& sweep, const Work& work,
                                   const Columns<kStreamedBlock>& columns, int batch, int half,
                                   StageList& list) {
  static_assert(StageList::kBatch == 32 && kStreamedWarps >= 2);
  const Stages& stages = work.stages;
  const int batches = (stages.total + StageList::kBatch - 1) / StageList::kBatch;
  const int lane = ptx::lane(), warp = ptx::thread() / 32;
  const int of_item = batch < batches ? batch : 0, index = of_item * StageList::kBatch + lane;
  if (index >= stages.total) return;
  const bool window = index < stages.windows;
  const int line_begin = (index - stages.windows) * stages.line_rows;
  const int line = window ? 0 : min(problem.additional - line_begin, kStreamedBlock);
  const StageOrigin origin = stages.origin(sweep, window ? index : 0);
  KeyStage& stage = list.stages[half * StageList::kBatch + lane];
  const bool last = index == stages.total - 1;
  int view = find_view(sweep, work.warp[warp], origin.at, line, kStreamedBlock);
  if (list.scale_first && view != 0) view |= kAllUnsure;
  if (index == 0) view |= KeyStage::kFirst;
  if (last) view |= KeyStage::kLast;
  // Two batches are known for good.
  if (lane == 0 && batches > 2) view |= KeyStage::kDescribes;
  const bool line_follows = !last && index + 1 >= stages.windows;
  if (stages.total > 1 && (list.modular || line_follows)) view |= KeyStage::kPrepares;
  stage.marks[warp] = static_cast<uint8_t>(view);
  if (warp == 0) {
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) stage.origin[a] = origin.at[a];
    stage.line = line;
    stage.shares = !list.modular && window ? 0 : index == 0 ? 1 : 2 + index % 2;
    const int other = batches > 1 ? half ^ 1 : half;
    const bool ends = last || lane == StageList::kBatch - 1;
    stage.next = ends ? other * StageList::kBatch : half * StageList::kBatch + lane + 1;
    stage.batch = of_item + 1;
  } else if (warp == 1) {
    int token = window ? 0 : line_begin;
    uint4 there;
    if (window) {
      Interval met[kMaxRank];
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        const KeyAxis axis = list.axes[a];
        token += origin.at[a] * axis.factor + axis.addend;
        met[a] = {origin.at[a], axis.end};
      }
      there = columns_in(columns, sweep, met, origin.at);
    } else {
      there = {first_columns(line, 0), first_columns(line, 1), first_columns(line, 2),
               first_columns(line, 3)};
    }
    stage.token = token;
    *reinterpret_cast<uint2*>(stage.there) = {(there.x & 0xffff) | there.y << 16,
                                              (there.z & 0xffff) | there.w << 16};
  }
}

// Item number `number` of a CTA. One thread calls it.
__device__ inline void find_item(const Forward& of, const Sweep& sweep, int number, int bytes,
                                 StageList& list) {
  const Problem& problem = of.problem;
  StreamedItem& item = list.items[number & 1];
  list.described = number;
  int entry = static_cast<int>(blockIdx.y) + number * static_cast<int>(gridDim.y);
  const int head = sweep.heads.split(entry), kv_head = head / sweep.group;
  auto row = [&](const void* tensor, int64_t tokens, int features) {
    return static_cast<const char*>(tensor) +
           (entry * tokens * problem.kv_heads + kv_head) * features * bytes;
  };
  item.key[0] = row(of.key, problem.key_tokens(), problem.head_dim);
  item.value[0] = row(of.value, problem.key_tokens(), problem.value_dim);
  item.key[1] = row(of.additional_keys, problem.additional, problem.head_dim);
  item.value[1] = row(of.additional_values, problem.additional, problem.value_dim);
  item.lse = entry * problem.query_tokens() * problem.heads + head;
  item.query = item.lse * problem.head_dim;
  item.out = item.lse * problem.value_dim;
  item.bias = bias_of(problem, of.bias, entry, head);
  item.more = number + 1 < own_items(static_cast<int>(problem.batch) * problem.heads);
}

}  // namespace jax_na::cuda
