// How the fused kernels cut a problem, decided on the host and handed to the kernels by value.
//
// A CTA keeps a box of stationary positions (queries in the forward pass and the query gradient,
// keys in the key gradient) and meets the streamed side stage by stage; each of its warps keeps a
// part of the box, 16 rows of matrix fragments or a multiple, and meets a stage tile by tile.
#pragma once

#include <cstdint>
#include <string>

#include "core/plan.h"
#include "core/problem.h"
#include "cuda/tile/fast_div.h"
#include "cuda/tile/shared_map.h"

namespace jax_na::cuda {

constexpr int kRowsPerFragment = 16;
constexpr int kMaxWarps = 8;
constexpr int kStreamedWarps = 4;  // of a kernel that streams alone

struct Sweep {
  int warp_box[kMaxRank] = {1, 1, 1};  // stationary positions of a warp
  int warps[kMaxRank] = {1, 1, 1};     // warps of a CTA along each axis
  int boxes[kMaxRank] = {1, 1, 1};     // CTAs along each axis of the longest dilation group
  int stage[kMaxRank] = {1, 1, 1};     // streamed positions in shared memory at a time
  int tile[kMaxRank] = {1, 1, 1};      // streamed positions that a warp meets at a time
  int pitch = 1;                       // rows of shared memory from a line of a stage to the next
  int buffers = 1;                     // stages in shared memory: 2 where a CTA meets several
  int own_buffers = 1;                 // items whose stationary rows are in shared memory
  int row_tiles = 1;                   // fragments of 16 rows in a warp
  FastDiv box_y, box_x;                // warp_box[1], warp_box[2]
  FastDiv boxes_z, boxes_y, boxes_x;
  FastDiv group_y, group_x;  // dilation of the axes
  FastDiv stage_y, pitch_x;
  FastDiv tile_y, tile_x;
  FastDiv heads;    // items of a batch entry
  int group = 1;    // query heads of a key head
  int sharers = 1;  // CTAs that share the items of a box
  SharedMap map;

  // Of the extents above, for kernels to read. set_sizes() finds them.
  int warp_count = 1;
  int rows = 0;           // stationary rows of a CTA, whole fragments
  int tile_size = 1;      // positions of a tile
  int stage_rows = 0;     // rows of one buffered stage, whole fragments
  int stage_extents = 3;  // sum over the axes
  int streamed = 0;       // whether a stage is one tile, for all warps

  // For kernels in which every thread finds out where an item begins.
  FastDiv head_group;       // query heads of a key head
  uint32_t query_rows = 0;  // of a batch entry: tokens times heads
  uint32_t key_rows = 0;
  int at_once = 0;  // whether the GPU holds all CTAs of the grid at the same time

  void set_sizes() {
    warp_count = warps[0] * warps[1] * warps[2];
    rows = warp_count * warp_rows();
    tile_size = tile[0] * tile[1] * tile[2];
    stage_rows =
        (stage[0] * stage[1] * pitch + kRowsPerFragment - 1) / kRowsPerFragment * kRowsPerFragment;
    stage_extents = stage[0] + stage[1] + stage[2];
    streamed = tile[0] == stage[0] && tile[1] == stage[1] && tile[2] == stage[2];
  }

  JAX_NA_INLINE int box(int axis) const { return warp_box[axis] * warps[axis]; }
  JAX_NA_INLINE int warp_rows() const { return kRowsPerFragment * row_tiles; }
  // Boxes of all dilation groups.
  int64_t all_boxes(const Problem& problem) const {
    int64_t all = 1;
    for (int a = 0; a < kMaxRank; ++a)
      all *= static_cast<int64_t>(boxes[a]) * problem.axes[a].dilation;
    return all;
  }
};

// What a compiled kernel can do, as the planner sees it.
struct KernelLimits {
  int head_dim;  // compiled, padded
  int element_bytes;
  int block;  // streamed positions in a tile at most
  int row_tiles;
  int columns_bytes;    // of the kernel's tables
  int shared_bytes;     // of a CTA at most
  int sm_shared_bytes;  // of a multiprocessor
  int sm_warps;         // of this kernel that a multiprocessor has registers for
  bool streams;         // kStreamedWarps to a CTA, and one buffer of stages that are tiles
  bool one_tile;        // a CTA has one stage, a warp one tile; no bias, no additional tokens
};

// Cuts `pass` of `problem`; returns the predicted clocks of a multiprocessor, or -1 where nothing
// fits its shared memory.
double make_sweep(const Problem& problem, Pass pass, const KernelLimits& limits, Sweep& sweep);

std::string str(const Sweep& sweep);

}  // namespace jax_na::cuda
