// The columns of a warp's tile: which streamed position each one is, where it lies in the stage,
// and, as bits, which columns a row sees.
//
// A lane with t = lane % 4 holds columns 8n + 2t and 8n + 2t + 1 of every 8 columns of a tile, as
// bits 2n and 2n + 1 of a word. Columns behind the tile's last position belong to no row.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

template <int kBlock>
struct Columns {
  static_assert(kBlock <= 128, "a lane's columns are the bits of a word");
  // Extents of a tile sum up to kBlock + 2 at most, and every axis has one entry more than that.
  alignas(16)
      uint32_t below[kBlock + 5][4];  // [i - of an axis -][t]: columns whose coordinate is below i
  int bias[kBlock];                   // the column's share of an index into the bias
  uint16_t row[kBlock];               // in the stage, from the tile's first position
};

// Where an axis begins in Columns::below.
__device__ __forceinline__ int below_begin(const Sweep& sweep, int axis) {
  return axis == 0 ? 0 : sweep.tile[0] + 1 + (axis == 1 ? 0 : sweep.tile[1] + 1);
}

// Fills the tables, which depend on the plan alone. Every thread calls it; a barrier is due after.
// `sign` is 1 where keys are streamed and -1 where queries are.
template <int kBlock>
__device__ void find_columns(const Problem& problem, const Sweep& sweep, int sign,
                             Columns<kBlock>& columns) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int size = sweep.tile_size;
  for (int column = threadIdx.x; column < kBlock; column += blockDim.x) {
    int z = column < size ? column : 0;
    const int x = sweep.tile_x.split(z), y = sweep.tile_y.split(z);
    columns.row[column] = (z * sweep.stage[1] + y) * sweep.pitch + x;
    const int width = 2 * problem.axes[2].window - 1;
    columns.bias[column] = sign * ((z * (2 * problem.axes[1].window - 1) + y) * width + x);
  }
  int at[4][kMaxRank];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const int column = 8 * (lane / 2) + 2 * t + lane % 2;
    int z = column;
    at[t][2] = sweep.tile_x.split(z);
    at[t][1] = sweep.tile_y.split(z);
    at[t][0] = z;
    if (column >= size) at[t][0] = at[t][1] = at[t][2] = kBlock;
  }
#pragma unroll
  for (int axis = 0; axis < kMaxRank; ++axis) {
    for (int i = warp; i <= sweep.tile[axis]; i += warps) {
      uint32_t word[4];
#pragma unroll
      for (int t = 0; t < 4; ++t) word[t] = __ballot_sync(~0u, at[t][axis] < i);
      if (lane < 4) {
        const uint32_t mine = lane == 0   ? word[0]
                              : lane == 1 ? word[1]
                              : lane == 2 ? word[2]
                                          : word[3];
        columns.below[below_begin(sweep, axis) + i][lane] = mine;
      }
    }
  }
}

// The first `count` columns.
__device__ __forceinline__ uint32_t first_columns(int count, int t) {
  uint32_t word = 0;
#pragma unroll
  for (int bit = 0; bit < 32; ++bit)
    word |= (8 * (bit / 2) + 2 * t + bit % 2 < count ? 1u : 0u) << bit;
  return word;
}

// The columns of a tile that a row sees; `unsure` are the axes to look at.
template <int kBlock>
__device__ __forceinline__ uint32_t seen_columns(const Columns<kBlock>& columns, const Sweep& sweep,
                                                 const RowWork& row, const Tile& tile, int unsure,
                                                 int t) {
  if (tile.line > 0) return first_columns(tile.line, t);
  uint32_t word = ~0u;
#pragma unroll
  for (int axis = 0; axis < kMaxRank; ++axis) {
    if (!(unsure >> axis & 1)) continue;
    const int extent = sweep.tile[axis], origin = tile.origin[axis];
    const int low = min(max(max(row.seen[axis].begin, tile.nominal[axis]) - origin, 0), extent);
    const int high = min(max(row.seen[axis].end - origin, 0), extent);
    const uint32_t (*below)[4] = columns.below + below_begin(sweep, axis);
    word &= below[high][t] & ~below[low][t];
  }
  return word;
}

// The columns of a tile of a box, whose first position is `origin`, that lie in `seen`, for all
// four lanes that share a row: without branches what is read of the three axes is on its way at
// once.
template <int kBlock>
__device__ __forceinline__ uint4 columns_in(const Columns<kBlock>& columns, const Sweep& sweep,
                                            const Interval (&seen)[kMaxRank],
                                            const int (&origin)[kMaxRank]) {
  uint4 words = {~0u, ~0u, ~0u, ~0u};
#pragma unroll
  for (int axis = 0; axis < kMaxRank; ++axis) {
    const int extent = sweep.tile[axis];
    const int low = min(max(seen[axis].begin - origin[axis], 0), extent);
    const int high = min(max(seen[axis].end - origin[axis], 0), extent);
    const uint4* below = reinterpret_cast<const uint4*>(columns.below + below_begin(sweep, axis));
    const uint4 of_high = below[high], of_low = below[low];
    words.x &= of_high.x & ~of_low.x;
    words.y &= of_high.y & ~of_low.y;
    words.z &= of_high.z & ~of_low.z;
    words.w &= of_high.w & ~of_low.w;
  }
  return words;
}

// The tile's share of an index into the bias; `sign` as for find_columns.
__device__ __forceinline__ int tile_bias(const Problem& problem, const int (&origin)[kMaxRank],
                                         int sign) {
  int index = 0;
#pragma unroll
  for (int axis = 0; axis < kMaxRank; ++axis)
    index = index * (2 * problem.axes[axis].window - 1) + sign * origin[axis];
  return index;
}

}  // namespace jax_na::cuda
