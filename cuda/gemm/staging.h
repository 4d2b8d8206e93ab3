// The way between accumulators or operands, where a lane holds pairs of columns of eight rows, and
// window-shaped tensors, where neighbouring columns of one row are neighbours in memory: 16 rows of
// 32 columns in shared memory, that a warp goes through row by row with a lane for each column.
#pragma once

#include <cstdint>

#include "cuda/gemm/slots.h"
#include "cuda/plan.h"

namespace jax_na::cuda {

// Columns that pass at a time: two chunks.
constexpr int kStagedColumns = 32;
// Elements from a row to the next, so that the pairs of eight rows lie in different banks.
constexpr int kStagingPitch = 40;

// What a CTA needs for that, with elements of type E, in the place that the plan keeps for Columns.
template <typename E, int kBlock, int kRows>
struct StagingTables {
  SlotTables<kBlock, kRows> slots;
  // Of an item: where each stationary row's slot 0 lies, and where it would lie if keys were
  // numbered by their positions.
  E* slot_zero[kRows];
  E* position_zero[kRows];
  E staging[kMaxWarps][kRowsPerFragment * kStagingPitch];
};

// Fills slot_zero and position_zero for the rows of a warp, `tensor` being where the rows of the
// item's head begin and `token_pitch` the elements from a token to the next.
template <typename E>
__device__ __forceinline__ void find_zeros(const RowWork* rows, const int* row_slots, int count,
                                           E* tensor, int64_t token_pitch, int lane, E** slot_zero,
                                           E** position_zero) {
  __syncwarp();
  for (int row = lane; row < count; row += 32) {
    slot_zero[row] = tensor + rows[row].token * token_pitch;
    position_zero[row] = slot_zero[row] + row_slots[row];
  }
  __syncwarp();
}

// Whether a row of a fragment sees this lane's column of the 32 from chunk `chunk` on, where
// seen[r] are the bits of rows g + 8r in the order of Columns. All lanes call it.
__device__ __forceinline__ bool sees_own_column(const uint32_t (&seen)[2], int row, int chunk,
                                                int lane) {
  const uint32_t word = __shfl_sync(~0u, seen[row / 8], 4 * (row % 8) + lane % 8 / 2);
  return word >> (4 * chunk + 2 * (lane / 8) + lane % 2) & 1;
}

}  // namespace jax_na::cuda
