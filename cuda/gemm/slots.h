// Which slot of a row's window a column is. The number of a slot is linear in the key's position
// and in the slot's origin, so that it is a sum of a share of the row and a share of the column.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Tables of a CTA, in the place that the plan keeps for Columns.
template <int kBlock, int kRows>
struct SlotTables {
  Columns<kBlock> columns;
  int column_slots[kBlock];  // shares of a tile's columns, from its first position; keys streamed
  int row_slots[kRows];      // shares of the stationary rows
};

// The number of a box of slots' element `at`, or of a difference of such.
__device__ __forceinline__ int slot_number(const Problem& problem, const int (&at)[kMaxRank]) {
  return (at[0] * problem.axes[1].window + at[1]) * problem.axes[2].window + at[2];
}

// Finds the shares of the stationary rows: the negative origin of a query's slots, or a key's
// position. Every thread calls it; a barrier is due after.
template <Side kStationary>
__device__ inline void find_row_slots(const Problem& problem, const Sweep& sweep, const Work& work,
                                      int* row_slots) {
  for (int row = threadIdx.x; row < sweep.rows; row += blockDim.x) {
    const int warp = row / sweep.warp_rows();
    int z = row % sweep.warp_rows();
    const int x = sweep.box_x.split(z), y = sweep.box_y.split(z);
    const int within[kMaxRank] = {z, y, x};
    const int place[kMaxRank] = {warp / (sweep.warps[2] * sweep.warps[1]),
                                 warp / sweep.warps[2] % sweep.warps[1], warp % sweep.warps[2]};
    int at[kMaxRank];
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const AxisWork& axis = work.axis[a];
      const int position = axis.box.begin + place[a] * sweep.warp_box[a] + within[a];
      at[a] = kStationary == Side::kKeys ? position : -axis.rule.slot_origin(position);
    }
    row_slots[row] = slot_number(problem, at);
  }
}

// Finds the shares of a tile's columns where keys are streamed.
template <int kBlock>
__device__ inline void find_column_slots(const Problem& problem, const Sweep& sweep,
                                         int* column_slots) {
  for (int column = threadIdx.x; column < kBlock; column += blockDim.x) {
    int z = column < sweep.tile_size ? column : 0;
    const int x = sweep.tile_x.split(z), y = sweep.tile_y.split(z);
    column_slots[column] = slot_number(problem, {z, y, x});
  }
}

// A row of a stage where queries are streamed.
struct StreamedRow {
  int token;
  int slot;  // its share: the negative origin of the query's slots
};

// Fills the table of a stage, a box from `origin` on, whose tokens are known.
__device__ inline void find_stage_slots(const Problem& problem, const Sweep& sweep,
                                        const Work& work, const int (&origin)[kMaxRank],
                                        const Place* places, const int* tokens, StreamedRow* to) {
  for (int row = threadIdx.x; row < sweep.stage_rows; row += blockDim.x) {
    int at[kMaxRank];
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a)
      at[a] = -work.axis[a].rule.slot_origin(origin[a] + places[row].at[a]);
    to[row] = {tokens[row], slot_number(problem, at)};
  }
}

}  // namespace jax_na::cuda
