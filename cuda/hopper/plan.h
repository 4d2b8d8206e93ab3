// How the Hopper kernel cuts a problem, decided on the host and handed to the kernel by value.
//
// A CTA goes through items: a box of rows of one head of one batch entry, a part of 64 rows at most
// for each of its warpgroups, and tile by tile the boxes of columns that cover what any of the rows
// meets. The first box of columns begins where the union of what they meet does. In the forward
// pass rows are queries and columns the keys that they see; in the backward pass rows are keys and
// columns the queries that see them.
#pragma once

#include <cstdint>
#include <string>

#include "core/problem.h"
#include "cuda/tile/fast_div.h"

namespace jax_na::cuda {

constexpr int kWarpgroupRows = 64;
constexpr int kMostWarpgroups = 2;

struct HopperPlan {
  bool rows_are_keys = false;
  int rows[kMaxRank] = {1, 1, 1};        // of a warpgroup
  int warpgroups[kMaxRank] = {1, 1, 1};  // side by side, along one axis
  int columns[kMaxRank] = {1, 1, 1};     // of a tile
  int boxes[kMaxRank] = {1, 1, 1};       // of rows along each axis of the longest dilation group
  int items = 0;
  bool heads_apart = false;  // the tensor maps have an axis of heads, and none of batch entries
  int order[kMaxRank] = {2, 1, 0};    // of the axes along which items follow each other, the first
                                      // of which changes with every item
  FastDiv boxes_along[kMaxRank];      // in that order
  FastDiv group_z, group_y, group_x;  // dilation of the axes
  FastDiv heads;
  // Expected of all items, for what is printed and for the predicted time.
  double tiles = 0;         // that a CTA meets
  double masked_tiles = 0;  // of them, those that a warpgroup masks, on average
  double clocks = 0;        // of one multiprocessor

  JAX_NA_INLINE int row_count() const { return rows[0] * rows[1] * rows[2]; }
  JAX_NA_INLINE int column_count() const { return columns[0] * columns[1] * columns[2]; }
  JAX_NA_INLINE int warpgroup_count() const {
    return warpgroups[0] * warpgroups[1] * warpgroups[2];
  }
  JAX_NA_INLINE int box(int axis) const { return rows[axis] * warpgroups[axis]; }
  // By how many rows a warpgroup lies behind the first one.
  JAX_NA_INLINE int offset(int warpgroup, int axis) const {
    return warpgroups[axis] > 1 ? warpgroup * rows[axis] : 0;
  }
};

// A compiled kernel, as the planner sees it.
struct HopperLimits {
  int head_dim;
  int block;       // columns of a tile at most
  int warpgroups;  // of 64 rows
};

// Plans the forward pass of `problem`; false where no plan is legal.
bool make_hopper_plan(const Problem& problem, const HopperLimits& limits, int multiprocessors,
                      HopperPlan& plan);

// The same for the main kernel of the backward pass, whose rows are keys.
bool make_hopper_backward_plan(const Problem& problem, const HopperLimits& limits,
                               int multiprocessors, HopperPlan& plan);

std::string str(const HopperPlan& plan);

}  // namespace jax_na::cuda
