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
  Tile tile{};
  tile.line = window ? 0 : min(problem.additional - line_begin, kStreamedBlock);
  const StageOrigin origin = stages.origin(sweep, window ? index : 0);
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) tile.origin[a] = tile.nominal[a] = origin.at[a];
  if (warp == 0) {
    // Each lane finds what one warp sees of one stage.
    static_assert(StageList::kBatch * kStreamedWarps == 32);
    const int seeing = lane / StageList::kBatch;
    uint32_t views = find_view(sweep, work.warp[seeing], tile, kStreamedBlock);
    if (list.scale_first && views != 0) views |= kAllUnsure;
    views <<= 4 * seeing;
    for (int apart = StageList::kBatch; apart < 32; apart *= 2)
      views |= __shfl_xor_sync(~0u, views, apart);
    if (lane < StageList::kBatch && first + lane < stages.total) {
      const int at = half * StageList::kBatch + lane;
      KeyStage& stage = list.stages[at];
      stage.tile = tile;
      const bool last = index == stages.total - 1;
      const int other = batches > 1 ? half ^ 1 : half;
      stage.next = last || lane == StageList::kBatch - 1 ? other * StageList::kBatch : at + 1;
      stage.batch = of_item + 1;
      // Two batches are known for good.
      stage.marks = views | (index == 0 ? KeyStage::kFirst : 0) | (last ? KeyStage::kLast : 0) |
                    (lane == 0 && batches > 2 ? KeyStage::kDescribes : 0);
    }
  }
  // A token is the sum of the share of the stage's origin and that of the row's place in it.
  KeyAxis axes[kMaxRank];
  int first_token = window ? 0 : line_begin;
  bool modular = false;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    axes[a] = list.axes[a];
    modular = modular || axes[a].length > 0;
    if (window) first_token += origin.at[a] * axes[a].factor + axes[a].addend;
  }
  constexpr int kRows = kStreamedBlock / 32;
  Place row_places[kRows];
  int row_tokens[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    row_places[i] = places[lane + 32 * i];
    row_tokens[i] = 0;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) row_tokens[i] += row_places[i].at[a] * axes[a].factor;
  }
  for (int s = warp; s < StageList::kBatch; s += kStreamedWarps) {
    int left[kMaxRank];  // positions that the CTA meets
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) left[a] = axes[a].end - __shfl_sync(~0u, origin.at[a], s);
    const int line = __shfl_sync(~0u, tile.line, s);
    const int from = __shfl_sync(~0u, first_token, s);
    KeyStage& stage = list.stages[half * StageList::kBatch + s];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = lane + 32 * i;
      int token = from + (line > 0 ? row : row_tokens[i]);
      bool met = line == 0 || row < line;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) met = met && (line > 0 || row_places[i].at[a] < left[a]);
      if (modular && line == 0) {
#pragma unroll
        for (int a = 0; a < kMaxRank; ++a) {
          // At most a period off, on either side.
          const int position = axes[a].end - left[a] + row_places[i].at[a];
          const int periods = position < 0 ? 1 : position >= axes[a].length ? -1 : 0;
          token += periods * axes[a].length * axes[a].factor;
        }
      }
      stage.tokens[StageList::place(row, kApart)] = met ? token : kZeros;
    }
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
