// Which columns of a tile a row meets, as bits.
//
// A lane with t = lane % 4 holds columns 8n + 2t and 8n + 2t + 1 of every 8 columns of a tile, as
// bits 2n and 2n + 1 of a word. A table for each axis says which of them lie before a coordinate,
// so that a row's columns are the difference of two entries, on every axis. For each warpgroup one
// warp finds the bits, ahead of their use: consumers only look them up.
#pragma once

#include <cstdint>

#include "cuda/hopper/item.h"
#include "cuda/hopper/shared.h"
#include "cuda/ptx/math.h"

namespace jax_na::cuda {

// Where an axis begins in the table.
__device__ __forceinline__ int below_begin(const HopperPlan& plan, int axis) {
  return axis == 0 ? 0 : plan.columns[0] + 1 + (axis == 1 ? 0 : plan.columns[1] + 1);
}

// Fills the table, by all warps of the block. Columns behind the tile's last key are below nothing.
template <typename Shape, typename Control>
__device__ inline void fill_below(const HopperPlan& plan, Control& control) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int at[4][kMaxRank];  // of the column that is bit `lane` of the word with t
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const int column = 8 * (lane / 2) + 2 * t + lane % 2, line = column / plan.columns[2];
    at[t][2] = column % plan.columns[2];
    at[t][1] = line % plan.columns[1];
    at[t][0] = line / plan.columns[1];
    if (column >= plan.column_count()) at[t][0] = at[t][1] = at[t][2] = Shape::kBlock;
  }
#pragma unroll
  for (int axis = 0; axis < kMaxRank; ++axis) {
    for (int below = warp; below <= plan.columns[axis]; below += Shape::kThreads / 32) {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const uint32_t word = __ballot_sync(~0u, at[t][axis] < below);
        if (lane == 0) control.below[below_begin(plan, axis) + below][t] = word;
      }
    }
  }
}

// The first `count` columns.
__device__ __forceinline__ uint32_t first_columns(int count, int t) {
  const int bits = 2 * (count / 8) + min(max(count % 8 - 2 * t, 0), 2);
  return bits >= 32 ? ~0u : (1u << bits) - 1;
}

// Where a row of a warpgroup lies in an item's box: the place on every axis, in ten bits each.
__device__ __forceinline__ uint32_t row_places(const HopperPlan& plan, int warpgroup, int row) {
  if (row >= plan.row_count()) row = 0;
  const int x = row % plan.rows[2], line = row / plan.rows[2];
  const int y = line % plan.rows[1], z = line / plan.rows[1];
  return (z + plan.offset(warpgroup, 0)) | (y + plan.offset(warpgroup, 1)) << 10 |
         (x + plan.offset(warpgroup, 2)) << 20;
}
__device__ __forceinline__ int place_along(uint32_t places, int axis) {
  return places >> (10 * axis) & 1023;
}

// Fills the table of them, by all threads of the block.
template <typename Shape, typename Control>
__device__ inline void fill_places(const HopperPlan& plan, Control& control) {
  for (int i = threadIdx.x; i < Shape::kWarpgroups * kWarpgroupRows; i += Shape::kThreads)
    control.places[i / kWarpgroupRows][i % kWarpgroupRows] =
        row_places(plan, i / kWarpgroupRows, i % kWarpgroupRows);
}

// Where the words of a row and of t are in a mask of keys, in bytes: that of its line in the lower
// half, that of its place in the upper one.
__device__ __forceinline__ uint32_t row_words(const HopperPlan& plan, int row, int t) {
  if (row >= plan.row_count()) row = 0;
  const int place = plan.rows[0] * plan.rows[1] + row % plan.rows[2];
  return (16 * (row / plan.rows[2]) + 4 * t) | (16 * place + 4 * t) << 16;
}

// Fills the table of them, by all threads of the block, for the two rows of a consumer's thread.
template <typename Shape, typename Control>
__device__ inline void fill_row_words(const HopperPlan& plan, Control& control) {
  for (int i = threadIdx.x; i < 2 * 128; i += Shape::kThreads) {
    const int r = i / 128, thread = i % 128;
    control.row_words[r][thread] =
        row_words(plan, thread / 32 * 16 + thread % 32 / 4 + 8 * r, thread % 4);
  }
}

// Where an axis begins in an item's `seen`.
__device__ __forceinline__ int seen_begin(const HopperPlan& plan, int axis) {
  return axis == 0 ? 0 : plan.box(0) + (axis == 1 ? 0 : plan.box(1));
}

// Hides what a lane's two rows do not see.
template <int kScores>
__device__ __forceinline__ void hide_columns(float (&scores)[kScores], const uint32_t (&seen)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int b = 0; b < kScores / 2; ++b) {
      float& score = scores[4 * (b / 2) + 2 * r + b % 2];
      score = ptx::hidden_unless(seen[r] & (1u << b), score);
    }
  }
}

}  // namespace jax_na::cuda
