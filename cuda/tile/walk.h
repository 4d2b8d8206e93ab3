// The order of work inside a CTA: the stages of its items, one after the other.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/lane.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// How many of `count` items a CTA goes through: all of the grid's second axis share those of a box.
__device__ __forceinline__ int own_items(int count) {
  const int sharers = static_cast<int>(gridDim.y);
  return (count - static_cast<int>(blockIdx.y) + sharers - 1) / sharers;
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
// computation of the one before. Where all steps have the same tokens they are found once.
// `meanwhile()` runs under the first copies. Every thread calls it.
template <typename Describe, typename Find, typename Load, typename LoadOwn, typename Meanwhile,
          typename Compute>
__device__ __forceinline__ void run_steps(Progress& at, int steps, const Sweep& sweep, Work& work,
                                          Describe describe, Find find, Load load, LoadOwn load_own,
                                          Meanwhile meanwhile, Compute compute) {
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
  meanwhile();
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
