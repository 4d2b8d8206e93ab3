// The order of work inside a CTA: stages of the streamed side, and a warp's tiles of a stage.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/tile/bias.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// How many of `count` items a CTA goes through: all of the grid's second axis share those of a box.
__device__ __forceinline__ int own_items(int count) {
  const int sharers = static_cast<int>(gridDim.y);
  return (count - static_cast<int>(blockIdx.y) + sharers - 1) / sharers;
}

// Describes step `index` of a CTA whose stationary side has `group` query heads for each of its
// items: 1 where queries are stationary.
__device__ inline Step describe_step(const Problem& problem, const Sweep& sweep, const void* bias,
                                     const Stages& stages, int index, bool queries_stationary,
                                     int parts) {
  const int heads_of_item = queries_stationary ? 1 : problem.group();
  const int steps = stages.total * heads_of_item;
  const int stage = index % steps % stages.total;
  Step step;
  step.ordinal = index / steps;
  step.first = index % steps == 0;
  step.last = index % steps == steps - 1;
  int entry = static_cast<int>(blockIdx.y) + step.ordinal * static_cast<int>(gridDim.y);
  const int item = sweep.heads.split(entry);
  step.part = item % parts;
  const int head =
      queries_stationary ? item : item / parts * heads_of_item + index % steps / stages.total;
  const int kv_head = head / problem.group();
  step.window = stage < stages.windows;
  step.line_begin = (stage - stages.windows) * stages.line_rows;
  step.line = step.window ? 0 : min(problem.additional - step.line_begin, stages.line_rows);
  step.origin = stages.origin(sweep, step.window ? stage : 0);
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

// Runs all steps of a CTA. `describe(step)` leaves what a step is where all threads find it,
// `find(step, table)` writes its tokens to one of two tables, `load(step, table, buffer)` starts
// its copies, and `compute(step, buffer)` works on them. With two buffers the copies of a step run
// under the computation of the one before. Where all steps have the same tokens they are found
// once. Every thread calls it.
template <typename Describe, typename Find, typename Load, typename Compute>
__device__ __forceinline__ void run_steps(int steps, int buffers, bool same_tokens,
                                          Describe describe, Find find, Load load,
                                          Compute compute) {
  describe(0);
  if (steps > 1) describe(1);
  __syncthreads();
  find(0, 0);
  if (!same_tokens && steps > 1) find(1, 1);
  __syncthreads();
  load(0, 0, 0);
  ptx::cp_async_commit();
  for (int step = 0; step < steps; ++step) {
    const int table = same_tokens ? 0 : (step + 1) & 1;
    const bool more = step + 1 < steps;
    if (buffers == 2) {
      if (more) load(step + 1, table, (step + 1) & 1);
      ptx::cp_async_commit();
      ptx::cp_async_wait<1>();
    } else {
      ptx::cp_async_wait<0>();
    }
    if (step + 2 < steps) describe(step + 2);
    __syncthreads();
    if (!same_tokens && step + 2 < steps) find(step + 2, step & 1);
    compute(step, buffers == 2 ? step & 1 : 0);
    __syncthreads();
    if (buffers == 1 && more) {
      load(step + 1, table, 0);
      ptx::cp_async_commit();
    }
  }
}

// A warp's tile of a stage: positions of a box, or tokens of a line (additional ones).
struct Tile {
  int origin[kMaxRank];   // first position
  int nominal[kMaxRank];  // positions before it belong to another tile
  int row;                // of the stage, of the first column
  int line;               // columns in use, where it is of a line; else 0
  bool sure;              // every row of the warp sees every column
};

// Goes through the tiles that cover what a warp needs of a stage.
class Tiles {
 public:
  // `line` is the number of tokens where the stage is a line, else 0.
  __device__ __forceinline__ Tiles(const Sweep& sweep, const WarpWork& warp,
                                   const StageOrigin& stage, int line)
      : sweep_(sweep), warp_(warp), stage_(stage), line_(line) {
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      need_[a] = warp.need[a].clipped({stage.at[a], stage.at[a] + sweep.stage[a]});
      next_[a] = need_[a].begin;
      if (need_[a].size() == 0) next_[0] = need_[0].end;  // no tile at all
    }
    if (line > 0) next_[0] = 0;
  }

  // Moves to the next tile, of `block` columns where it is of a line; false after the last.
  __device__ __forceinline__ bool next(Tile& tile, int block) {
    if (line_ > 0) {
      if (next_[0] >= line_) return false;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) tile.origin[a] = tile.nominal[a] = 0;
      tile.row = next_[0];
      tile.line = min(line_ - next_[0], block);
      tile.sure = tile.line == block;
      next_[0] += block;
      return true;
    }
    if (next_[0] >= need_[0].end) return false;
    tile.row = 0;
    tile.line = 0;
    tile.sure = sweep_.tile_size() % kRowsPerFragment == 0;  // no column behind the last position
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      // A tile that would leave the stage begins earlier.
      const int nominal = next_[a];
      const int origin = min(nominal, stage_.at[a] + sweep_.stage[a] - sweep_.tile[a]);
      tile.nominal[a] = nominal;
      tile.origin[a] = origin;
      tile.row = tile.row * (a == 2 ? sweep_.pitch : sweep_.stage[a]) + origin - stage_.at[a];
      tile.sure = tile.sure && warp_.sure[a].begin <= origin &&
                  origin + sweep_.tile[a] <= warp_.sure[a].end &&
                  (origin == nominal || nominal == need_[a].begin);
    }
    next_[2] += sweep_.tile[2];
    if (next_[2] >= need_[2].end) {
      next_[2] = need_[2].begin;
      next_[1] += sweep_.tile[1];
      if (next_[1] >= need_[1].end) {
        next_[1] = need_[1].begin;
        next_[0] += sweep_.tile[0];
      }
    }
    return true;
  }

  // Whether there is one tile alone.
  __device__ __forceinline__ bool only() const {
    bool one = line_ == 0;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) one = one && need_[a].size() <= sweep_.tile[a];
    return one;
  }

 private:
  const Sweep& sweep_;
  const WarpWork& warp_;
  const StageOrigin& stage_;
  const int line_;
  Interval need_[kMaxRank];
  int next_[kMaxRank];
};

}  // namespace jax_na::cuda
