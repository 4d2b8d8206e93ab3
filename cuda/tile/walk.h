// The order of work inside a CTA: the stages of its items, one after the other.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/lane.h"
#include "cuda/tile/bias.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// How many of `count` items a CTA goes through: all of the grid's second axis share those of a box.
__device__ __forceinline__ int own_items(int count) {
  const int sharers = static_cast<int>(gridDim.y);
  return (count - static_cast<int>(blockIdx.y) + sharers - 1) / sharers;
}

// Step `index` of a CTA. `parts` are those of an item's features; where keys are stationary, an
// item is a key head, and goes through the stages of all its query heads.
__device__ inline Step find_step(const Problem& problem, const Sweep& sweep, const void* bias,
                                 const Stages& stages, int index, Side stationary, int parts) {
  const int heads_of_item = stationary == Side::kQueries ? 1 : sweep.group;
  const int steps = stages.total * heads_of_item;
  const int of_item = index % steps, stage = of_item % stages.total;
  Step step;
  step.ordinal = index / steps;
  step.first = of_item == 0;
  step.last = of_item == steps - 1;
  step.stage = stage;
  step.final_head = of_item / stages.total == heads_of_item - 1;
  int entry = static_cast<int>(blockIdx.y) + step.ordinal * static_cast<int>(gridDim.y);
  const int item = sweep.heads.split(entry);
  step.part = item % parts;
  const int head =
      stationary == Side::kQueries ? item : item / parts * heads_of_item + of_item / stages.total;
  const int kv_head = head / sweep.group;
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

__device__ __forceinline__ void set_progress(Progress& at, int step, int steps) {
  __syncwarp();
  if (ptx::lane() == 0) {
    at.step = step;
    at.steps = steps;
  }
  __syncwarp();
}

// Runs `steps` steps of a CTA, counted in `at`, which is the warp's own. `describe(step)` leaves
// what a step is where all threads find it; one warp calls it, in turn. `find(step, table)` writes
// the step's tokens to one of two tables, `load(step, table, buffer)` starts its copies,
// `load_own(step)` those of the stationary side where the step is the first of an item, and
// `compute(step, buffer)` works on them. With two buffers the copies of a step run under the
// computation of the one before. Where all steps have the same tokens they are found once. Every
// thread calls it.
template <typename Describe, typename Find, typename Load, typename LoadOwn, typename Compute>
__device__ __forceinline__ void run_steps(Progress& at, int steps, const Sweep& sweep, Work& work,
                                          Describe describe, Find find, Load load, LoadOwn load_own,
                                          Compute compute) {
  auto same_tokens = [&] { return work.stages.total == 1; };
  auto in_turn = [&](int step) {
    if ((threadIdx.x & ~31u) == (32 * step & (blockDim.x - 1)) && step < at.steps) describe(step);
  };
  auto load_streamed = [&](int step) {
    load(step, same_tokens() ? 0 : step & 1, sweep.buffers == 2 ? step & 1 : 0);
  };
  auto begins_item = [&](int step) { return work.steps[step % kStepsKnown].first != 0; };

  set_progress(at, 0, steps);
  for (int step = 0; step < 3; ++step) in_turn(step);
  __syncthreads();
  find(0, 0);
  if (!same_tokens() && at.steps > 1) find(1, 1);
  __syncthreads();
  load_streamed(0);
  load_own(0);
  ptx::cp_async_commit();
  for (; at.step < at.steps; set_progress(at, at.step + 1, at.steps)) {
    ptx::cp_async_wait<0>();
    // Everybody's copies have come, and nobody reads what the next ones overwrite.
    __syncthreads();
    if (sweep.buffers == 2 && at.step + 1 < at.steps) {
      load_streamed(at.step + 1);
      if (sweep.own_buffers == 2 && begins_item(at.step + 1)) load_own(at.step + 1);
      ptx::cp_async_commit();
    }
    if (!same_tokens() && at.step + 2 < at.steps) find(at.step + 2, at.step & 1);
    in_turn(at.step + 3);
    compute(at.step, sweep.buffers == 2 ? at.step & 1 : 0);
    if (at.step + 1 < at.steps &&
        (sweep.buffers == 1 || (sweep.own_buffers == 1 && begins_item(at.step + 1)))) {
      __syncthreads();
      if (sweep.buffers == 1) load_streamed(at.step + 1);
      if (begins_item(at.step + 1)) load_own(at.step + 1);
      ptx::cp_async_commit();
    }
  }
}

}  // namespace jax_na::cuda
