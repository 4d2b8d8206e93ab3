// Finds what a StageList holds.
#pragma once

#include <cstdint>

#include "cuda/forward/stage_list.h"
#include "cuda/launch.h"
#include "cuda/ptx/lane.h"
#include "cuda/tile/bias.h"
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

// The token of a row of a stage, or kZeros where it has none.
__device__ __forceinline__ int find_token(const int (&origin)[kMaxRank], int line, int line_begin,
                                          const KeyAxis (&axes)[kMaxRank], const Place& place,
                                          int row) {
  if (line > 0) return row < line ? line_begin + row : kZeros;
  int token = 0;
  bool met = true;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    int position = origin[a] + place.at[a];
    met = met && position < axes[a].end;
    // At most a period off, on either side.
    if (position < 0) position += axes[a].length;
    if (position >= axes[a].length) position -= axes[a].length;
    token += position * axes[a].factor + axes[a].addend;
  }
  return met ? token : kZeros;
}

// Describes batch number `batch` of an item's stages, which behind the last is the first again, in
// one half of the list. Every thread calls it: each lane finds where a stage begins, and each warp
// the tokens of some of them, for threads that copy each kApart-th row.
template <int kApart>
__device__ inline void find_stages(const Problem& problem, const Sweep& sweep, const Work& work,
                                   int batch, int half, const Place* places, StageList& list) {
  const Stages& stages = work.stages;
  const int batches = (stages.total + StageList::kBatch - 1) / StageList::kBatch;
  const int lane = ptx::lane(), warp = ptx::thread() / 32;
  const int of_item = batch < batches ? batch : 0, first = of_item * StageList::kBatch;
  const int index = min(first + lane % StageList::kBatch, stages.total - 1);
  const bool window = index < stages.windows;
  const int line_begin = (index - stages.windows) * stages.line_rows;
  KeyStage stage;
  stage.tile = Tile{};
  stage.tile.line = window ? 0 : min(problem.additional - line_begin, kStreamedBlock);
  const StageOrigin origin = stages.origin(sweep, window ? index : 0);
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) stage.tile.origin[a] = stage.tile.nominal[a] = origin.at[a];
  if (warp == 0) {
    // Each lane finds what one warp sees of one stage.
    static_assert(StageList::kBatch * kStreamedWarps == 32);
    const int seeing = lane / StageList::kBatch;
    uint32_t views = find_view(sweep, work.warp[seeing], stage.tile, kStreamedBlock) << 4 * seeing;
    for (int apart = StageList::kBatch; apart < 32; apart *= 2)
      views |= __shfl_xor_sync(~0u, views, apart);
    if (lane < StageList::kBatch && first + lane < stages.total) {
      const int at = half * StageList::kBatch + lane;
      const bool last = index == stages.total - 1;
      const int other = batches > 1 ? half ^ 1 : half;
      stage.next = last || lane == StageList::kBatch - 1 ? other * StageList::kBatch : at + 1;
      stage.batch = of_item + 1;
      // Two batches are known for good.
      stage.marks = views | (index == 0 ? KeyStage::kFirst : 0) | (last ? KeyStage::kLast : 0) |
                    (lane == 0 && batches > 2 ? KeyStage::kDescribes : 0);
      list.stages[at] = stage;
    }
  }
  KeyAxis axes[kMaxRank];
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) axes[a] = list.axes[a];
#pragma unroll
  for (int s = warp; s < StageList::kBatch; s += kStreamedWarps) {
    int begin[kMaxRank];
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) begin[a] = __shfl_sync(~0u, origin.at[a], s);
    const int line = __shfl_sync(~0u, stage.tile.line, s);
    const int from = __shfl_sync(~0u, line_begin, s);
    for (int row = lane; row < kStreamedBlock; row += 32)
      list.tokens[half * StageList::kBatch + s][StageList::place(row, kApart)] =
          find_token(begin, line, from, axes, places[row], row);
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
