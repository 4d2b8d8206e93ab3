// The steps of a CTA, one stage of one item each, and how it describes them to its threads.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/lane.h"
#include "cuda/tile/bias.h"
#include "cuda/tile/load.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Step `index` of a CTA. `parts` are those of an item's features; where keys are stationary, an
// item is a key head, and goes through the stages of all its query heads. Small windows, where an
// item is one step, come here for every step: without a division.
__device__ inline Step find_step(const Problem& problem, const Sweep& sweep, const void* bias,
                                 const Stages& stages, int index, Side stationary, int parts) {
  const int heads_of_item = stationary == Side::kQueries ? 1 : sweep.group;
  const int steps = stages.total * heads_of_item;
  Step step;
  step.ordinal = steps == 1 ? index : index / steps;
  const int of_item = index - step.ordinal * steps;
  const int head_of_item = stages.total == 1 ? of_item : of_item / stages.total;
  const int stage = of_item - head_of_item * stages.total;
  step.first = of_item == 0;
  step.last = of_item == steps - 1;
  step.stage = stage;
  step.final_head = head_of_item == heads_of_item - 1;
  int entry = static_cast<int>(blockIdx.y) + step.ordinal * static_cast<int>(gridDim.y);
  const int item = sweep.heads.split(entry);
  step.part = item % parts;
  const int head = item / parts * heads_of_item + head_of_item;
  int kv_head = head;
  sweep.head_group.split(kv_head);
  step.window = stage < stages.windows;
  step.line_begin = (stage - stages.windows) * stages.line_rows;
  step.tile = Tile{};
  step.tile.line = step.window ? 0 : min(problem.additional - step.line_begin, stages.line_rows);
  const StageOrigin origin = stages.origin(sweep, step.window ? stage : 0);
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) step.tile.origin[a] = step.tile.nominal[a] = origin.at[a];
  const int64_t queries = problem.query_tokens();
  const int64_t keys = step.window ? problem.key_tokens() : problem.additional;
  step.lse = entry * queries * problem.heads + head;
  step.query = step.lse * problem.head_dim;
  step.key = (entry * keys * problem.kv_heads + kv_head) * problem.head_dim;
  step.value = (entry * keys * problem.kv_heads + kv_head) * problem.value_dim;
  step.out = step.lse * problem.value_dim;
  step.bias = bias_of(problem, bias, entry, head);
  step.dbias = (static_cast<int64_t>(entry) * problem.heads + head) * problem.bias_size();
  return step;
}

// Whether next_stage(...) makes the next step of `step`: it is of the same head, and a box or a
// line like it.
__device__ __forceinline__ bool has_next_stage(const Stages& stages, const Step& step) {
  return step.stage + 1 < (step.window ? stages.windows : stages.total);
}
__device__ __forceinline__ void next_stage(const Problem& problem, const Sweep& sweep,
                                           const Stages& stages, Step& step) {
  ++step.stage;
  step.first = 0;
  step.last = step.final_head && step.stage + 1 == stages.total;
  Tile& tile = step.tile;
  if (!step.window) {
    step.line_begin += stages.line_rows;
    tile.line = min(problem.additional - step.line_begin, stages.line_rows);
    return;
  }
  for (int a = kMaxRank - 1; a >= 0; --a) {
    tile.origin[a] += sweep.stage[a];
    if (tile.origin[a] < stages.begin[a] + stages.count[a] * sweep.stage[a]) break;
    tile.origin[a] = stages.begin[a];
  }
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) tile.nominal[a] = tile.origin[a];
}

// Leaves step `index` where all threads find it. A warp calls it; steps before this one, other than
// the first kStepsKnown - 1, are there already.
__device__ __forceinline__ void describe_step(const Problem& problem, const Sweep& sweep,
                                              const void* bias, int index, Side stationary,
                                              int parts, Work& work) {
  const int lane = ptx::lane();
  Step& step = work.steps[index % kStepsKnown];
  const Step& before = work.steps[(index + kStepsKnown - 1) % kStepsKnown];
  if (index >= kStepsKnown - 1 && has_next_stage(work.stages, before)) {
    static_assert(sizeof(Step) <= 32 * sizeof(uint32_t));
    if (lane < static_cast<int>(sizeof(Step) / sizeof(uint32_t)))
      reinterpret_cast<uint32_t*>(&step)[lane] = reinterpret_cast<const uint32_t*>(&before)[lane];
    __syncwarp();
    if (lane == 0) next_stage(problem, sweep, work.stages, step);
  } else if (lane == 0) {
    step = find_step(problem, sweep, bias, work.stages, index, stationary, parts);
  }
  __syncwarp();
}

// Describes step `index`, what every warp sees of it, and the shares of its tokens, for stages that
// are tiles of kBlock columns. A warp calls it.
template <Side kStationary, int kBlock>
__device__ __forceinline__ void describe_for_warps(const Problem& problem, const Sweep& sweep,
                                                   const void* bias, int parts, int index,
                                                   const CtaTables& tables) {
  Work& work = tables.work;
  const int slot = index % kStepsKnown;
  describe_step(problem, sweep, bias, index, kStationary, parts, work);
  const Tile& stage = work.steps[slot].tile;
  const bool changes = work.stages.total > 1;
  if (index == 0 || changes) {
    int counts[kMaxRank];
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a)
      counts[a] =
          kStationary == Side::kQueries ? problem.axes[a].key_count : problem.axes[a].query_count;
    find_shares(sweep, work, counts, stage.origin, tables.shares + slot * sweep.stage_extents);
  }
  const int seeing = ptx::lane();
  if (seeing < sweep.warp_count && (index < kStepsKnown || changes))
    work.view[slot][seeing] = find_view(sweep, work.warp[seeing], stage.origin, stage.line, kBlock);
}

// Writes the tokens of a step's stage to table number `table`. Every thread calls it.
__device__ __forceinline__ void find_step_tokens(const Sweep& sweep, const CtaTables& tables,
                                                 int step, int table) {
  const int slot = step % kStepsKnown;
  const Step& s = tables.work.steps[slot];
  find_tokens(sweep, tables.places, tables.shares + slot * sweep.stage_extents, s.tile.line,
              s.line_begin, tables.tokens + table * sweep.stage_rows);
}

}  // namespace jax_na::cuda
