// How the Hopper kernel cuts a problem, decided on the host and handed to the kernel by value.
//
// A CTA goes through items: a box of rows of one head of one batch entry, a part of 64 rows at most
// for each of its warpgroups, and tile by tile the boxes of columns that cover what any of the rows
// meets. The first box of columns begins where the union of what they meet does. In the forward
// pass rows are queries and columns the keys that they see; in the backward pass rows are keys and
// columns the queries that see them.
//
// Every c-th token of an axis is an axis of its own, where c divides the dilation: windows do not
// leave it. So a problem can be done in several launches, phases, of a smaller dilation each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
  int phases[kMaxRank] = {1, 1, 1};      // launches along each axis, of every phases[axis]th token
  int boxes[kMaxRank] = {1, 1, 1};       // of rows along each axis of the longest dilation group
  int items = 0;                         // of the first launch, which has the most
  bool heads_apart = false;  // the tensor maps have an axis of heads, and none of batch entries
  // The axes along which items follow each other; the first changes with every item.
  int order[kMaxRank] = {2, 1, 0};
  FastDiv boxes_along[kMaxRank];      // in that order
  FastDiv group_z, group_y, group_x;  // dilation of a launch's axes
  FastDiv heads;
  int turn = 0;  // CTAs that items move on by, from one round of all CTAs to the next (turn.h)
  // Expected of all items of the first launch, for what is printed and for the predicted time.
  double tiles = 0;         // that a CTA meets
  double masked_tiles = 0;  // of them, those that a warpgroup masks, on average
  double clocks = 0;        // of one multiprocessor, for all launches

  JAX_NA_INLINE int row_count() const { return rows[0] * rows[1] * rows[2]; }
  JAX_NA_INLINE int column_count() const { return columns[0] * columns[1] * columns[2]; }
  JAX_NA_INLINE int warpgroup_count() const {
    return warpgroups[0] * warpgroups[1] * warpgroups[2];
  }
  int launches() const { return phases[0] * phases[1] * phases[2]; }
  JAX_NA_INLINE int box(int axis) const { return rows[axis] * warpgroups[axis]; }
  // By how many rows a warpgroup lies behind the first one.
  JAX_NA_INLINE int offset(int warpgroup, int axis) const {
    return warpgroups[axis] > 1 ? warpgroup * rows[axis] : 0;
  }
};

// What a kernel computes.
enum class HopperPass {
  kForward,
  kGradients,      // of queries, keys and values
  kKeyGradient,    // of keys and values
  kQueryGradient,  // of queries
};

// A compiled kernel, as the planner sees it.
struct HopperLimits {
  int head_dim;
  int block;       // columns of a tile at most
  int warpgroups;  // of 64 rows
  bool rows_are_keys = false;
  int resident = 1;  // CTAs of a multiprocessor
  HopperPass pass = HopperPass::kForward;
  bool pairs = false;  // tiles that only one warpgroup needs go by in pairs (backward/pairs.h)
};

constexpr int kMostBoxSide = 256;      // of the copy engine, in steps of the tensor
constexpr int kMostElementStride = 8;  // of the copy engine
constexpr int kMostLaunches = 256;

// An axis of one launch, with all tokens that are `phase` modulo `phases`.
JAX_NA_INLINE Axis phase_of(Axis axis, int phases, int phase) {
  if (phases == 1) return axis;
  axis.length = axis.query_count = axis.key_count = (axis.length - phase + phases - 1) / phases;
  axis.dilation /= phases;
  return axis;
}

// The problem of one launch, of all tokens that are phase[axis] modulo phases[axis].
Problem phase_of(const Problem& problem, const int (&phases)[kMaxRank],
                 const int (&phase)[kMaxRank]);

// The plans of `problem` that are predicted to be the fastest, the best first: `most` at most, of
// different boxes of rows or of columns; none where no plan is legal.
std::vector<HopperPlan> hopper_plans(const Problem& problem, const HopperLimits& limits,
                                     int multiprocessors, int most);

// Completes a plan of the forward pass of which rows, warpgroups, columns and phases are given;
// returns an empty text, or why it is illegal.
std::string complete_hopper_plan(const Problem& problem, const HopperLimits& limits,
                                 int multiprocessors, HopperPlan& plan);

std::string str(const HopperPlan& plan);

}  // namespace jax_na::cuda
