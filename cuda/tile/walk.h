// The order of work inside a CTA: stages of the streamed side, and a warp's tiles of a stage.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/tile/load.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// The stages that cover what a CTA meets.
struct Stages {
  int count[kMaxRank];

  __device__ Stages(const Sweep& sweep, const Work& work) {
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a)
      count[a] = (work.axis[a].met.size() + sweep.stage[a] - 1) / sweep.stage[a];
  }
  __device__ int total() const { return count[0] * count[1] * count[2]; }
  __device__ StageOrigin origin(const Sweep& sweep, const Work& work, int stage) const {
    int place[kMaxRank];
    place[2] = stage % count[2];
    place[1] = stage / count[2] % count[1];
    place[0] = stage / (count[2] * count[1]);
    StageOrigin origin;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a)
      origin.at[a] = work.axis[a].met.begin + place[a] * sweep.stage[a];
    return origin;
  }
};

// Runs `load(stage, buffer)`, which starts copies, and `compute(stage, buffer)` for all stages;
// with two buffers the copies of the next stage run under the computation of this one. `prepare()`
// runs under the first copies. Every thread calls it.
template <typename Load, typename Prepare, typename Compute>
__device__ __forceinline__ void run_stages(int stages, int buffers, Load load, Prepare prepare,
                                           Compute compute) {
  if (stages > 0) load(0, 0);
  ptx::cp_async_commit();
  prepare();
  for (int stage = 0; stage < stages; ++stage) {
    const bool two = buffers == 2;
    if (two) {
      if (stage + 1 < stages) load(stage + 1, (stage + 1) & 1);
      ptx::cp_async_commit();
      ptx::cp_async_wait<1>();
    } else {
      ptx::cp_async_wait<0>();
    }
    __syncthreads();
    compute(stage, two ? stage & 1 : 0);
    __syncthreads();
    if (!two && stage + 1 < stages) {
      load(stage + 1, 0);
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

 private:
  const Sweep& sweep_;
  const WarpWork& warp_;
  const StageOrigin& stage_;
  const int line_;
  Interval need_[kMaxRank];
  int next_[kMaxRank];
};

}  // namespace jax_na::cuda
