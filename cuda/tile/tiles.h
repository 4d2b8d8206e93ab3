// A warp's tiles of a stage.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/lane.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Goes through the tiles that cover what a warp needs of a stage: the stage itself where stages are
// streamed, the one tile of all items where nothing changes from one to the next, or a grid of
// them. For the grid lane 0 finds the next, and leaves it in shared memory: registers are for sums.
class Tiles {
 public:
  // `known` says that warp.tile is the only one of every item, and found.
  __device__ __forceinline__ Tiles(const Sweep& sweep, WarpWork& warp, const Step& step, int view,
                                   bool known)
      : sweep_(sweep), warp_(warp), step_(step), view_(view), known_(known) {}

  // Moves to the first tile, of `block` columns where it is of a line; false where there is none.
  __device__ __forceinline__ bool first(int block) {
    if (known_) return true;
    if (sweep_.streamed) return (view_ & kMet) != 0;
    __syncwarp();
    if (ptx::lane() == 0) {
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) warp_.next[a] = step_.tile.line > 0 ? 0 : need(a).begin;
    }
    return advance(block);
  }
  // Moves to the next tile; false after the last.
  __device__ __forceinline__ bool next(int block) {
    return !known_ && !sweep_.streamed && advance(block);
  }

  __device__ __forceinline__ const Tile& tile() const {
    return sweep_.streamed ? step_.tile : warp_.tile;
  }
  // The axes along which some row may not see some column, as bits.
  __device__ __forceinline__ int unsure() const {
    return sweep_.streamed ? view_ & kAllUnsure : warp_.tile.unsure;
  }

 private:
  __device__ __forceinline__ bool advance(int block) {
    __syncwarp();
    if (ptx::lane() == 0)
      warp_.more = step_.tile.line > 0 ? next_of_line(block) : next_of_box(block);
    __syncwarp();
    return warp_.more != 0;
  }

  __device__ __forceinline__ Interval need(int a) const {
    const int at = step_.tile.origin[a];
    return warp_.need[a].clipped({at, at + sweep_.stage[a]});
  }

  __device__ __forceinline__ bool next_of_line(int block) {
    const int begin = warp_.next[0];
    if (begin >= step_.tile.line) return false;
    Tile tile{};
    tile.row = begin;
    tile.line = min(step_.tile.line - begin, block);
    tile.unsure = tile.line == block ? 0 : kAllUnsure;
    warp_.tile = tile;
    warp_.next[0] = begin + block;
    return true;
  }

  __device__ __forceinline__ bool next_of_box(int block) {
    Tile tile{};
    bool none = false;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const Interval needed = need(a);
      const int nominal = warp_.next[a];
      none = none || nominal >= needed.end;
      // A tile that would leave the stage begins earlier.
      const int at = step_.tile.origin[a];
      const int origin = min(nominal, at + sweep_.stage[a] - sweep_.tile[a]);
      tile.nominal[a] = nominal;
      tile.origin[a] = origin;
      tile.row = tile.row * (a == 2 ? sweep_.pitch : sweep_.stage[a]) + origin - at;
      const bool sure = warp_.sure[a].begin <= origin &&
                        origin + sweep_.tile[a] <= warp_.sure[a].end &&
                        (origin == nominal || nominal == needed.begin);
      tile.unsure |= sure ? 0 : 1 << a;
    }
    if (none) return false;
    if (sweep_.tile_size != block) tile.unsure = kAllUnsure;
    warp_.tile = tile;
    int axis = kMaxRank - 1;
    for (; axis > 0; --axis) {
      warp_.next[axis] += sweep_.tile[axis];
      if (warp_.next[axis] < need(axis).end) return true;
      warp_.next[axis] = need(axis).begin;
    }
    warp_.next[0] += sweep_.tile[0];
    return true;
  }

  const Sweep& sweep_;
  WarpWork& warp_;
  const Step& step_;
  const int view_;
  const bool known_;
};

// What a warp sees of a stage that is one tile, of `block` columns, from `origin` on or of a line:
// kMet and the axes that are unsure, as bits.
__device__ __forceinline__ int find_view(const Sweep& sweep, const WarpWork& warp,
                                         const int (&origin)[kMaxRank], int line, int block) {
  // Columns behind the last position, or token, are seen by nobody.
  if (line > 0) return kMet | (line == block ? 0 : kAllUnsure);
  int view = kMet | (sweep.tile_size == block ? 0 : kAllUnsure);
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int begin = origin[a], end = begin + sweep.stage[a];
    if (warp.need[a].begin >= end || warp.need[a].end <= begin) return 0;
    if (warp.sure[a].begin > begin || end > warp.sure[a].end) view |= 1 << a;
  }
  return warp.need[0].size() > 0 && warp.need[1].size() > 0 && warp.need[2].size() > 0 ? view : 0;
}

}  // namespace jax_na::cuda
