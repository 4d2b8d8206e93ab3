// The shared memory of the Hopper backward kernel: rows of 128 bytes in panels, as in the forward
// kernel, of 128 keys and their values, of tiles of queries and of the cotangents of their results.
#pragma once

#include <cstdint>

#include "cuda/hopper/shared.h"

namespace jax_na::cuda {

// Sizes and elements of a compiled kernel. Rows are keys, columns are queries. Without sums it
// leaves the gradient of the queries to another kernel.
template <typename T, int kHeadDimension, bool kWithSums>
struct HopperBackwardShape {
  using Element = T;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr bool kSums = kWithSums;
  static constexpr int kBlock = 64;
  static constexpr int kWarpgroups = 2;
  static constexpr int kThreads = 128 * (1 + kWarpgroups);
  // Registers of a thread that computes, and of another.
  static constexpr int kComputeRegisters = kHeadDim > 64 ? 232 : 224;
  static constexpr int kOtherRegisters = kHeadDim > 64 ? 40 : 56;
  static constexpr int kRows = kWarpgroups * kWarpgroupRows;
  static constexpr int kPanels = kHeadDim / kPanelElements;
  static_assert(kHeadDim % kPanelElements == 0, "panels are whole");
  static constexpr int kRowPanelBytes = kRows * kPanelRowBytes;
  static constexpr int kRowBytes = kPanels * kRowPanelBytes;  // of the keys, or of their values
  static constexpr int kStagePanelBytes = kBlock * kPanelRowBytes;
  static constexpr int kStageBytes = kPanels * kStagePanelBytes;
  // Gradients leave from the place of their keys and values.
  static constexpr int kOutElements = kPanelElements;
  static constexpr int kOutPanelBytes = kRowPanelBytes;
  // The gradients of scores: rows of keys, of the queries of a tile. Only the sums need them here.
  static constexpr int kDscoreBytes = kSums ? kRows * kPanelRowBytes : 0;
  static constexpr int kDscoreBuffers = 2;
  // What a tile adds to the gradient of its queries: a warpgroup has a part of the features.
  static constexpr int kSumColumns = kHeadDim / kWarpgroups;
  static constexpr int kSumElements = 32;  // of a row of 128 bytes
  static constexpr int kSumPanels = kSumColumns / kSumElements;
  static constexpr int kSumPanelBytes = kBlock * kPanelRowBytes;
  static constexpr int kSumBytes = kSums ? kSumPanels * kSumPanelBytes : 0;  // of a warpgroup

  // With room for them, the keys and values of an item are fetched while the one before runs.
  static constexpr int kRowBuffers = kSums && kHeadDim > 64 ? 1 : 2;
  static constexpr int kQueryStages = 3;
  static constexpr int kDoutStages = 2;
  static constexpr int kControlBytes = 16 * 1024;  // at most

  // From the aligned beginning.
  static constexpr int kKeyAt = 0;
  static constexpr int kValueAt = kKeyAt + kRowBytes;
  static constexpr int kQueryAt = kKeyAt + kRowBuffers * 2 * kRowBytes;
  static constexpr int kDoutAt = kQueryAt + kQueryStages * kStageBytes;
  static constexpr int kDscoreAt = kDoutAt + kDoutStages * kStageBytes;
  static constexpr int kSumAt = kDscoreAt + kDscoreBuffers * kDscoreBytes;
  static constexpr int kControlAt = kSumAt + kWarpgroups * kSumBytes;
  static constexpr int kSharedBytes = kControlAt + kControlBytes + 1024;
  static_assert(kSharedBytes <= kMaxSharedBytes, "more shared memory than there is");

  // Boxes of 64 positions for each warpgroup, and of kBlock, extents summed over the axes.
  static constexpr int kMostPlaces = kRows + 2 * kMostWarpgroups;
  static constexpr int kMostBelow = kBlock + 5;
};

// What the warps tell each other.
template <typename Shape>
struct HopperBackwardControl {
  uint64_t described[kItemsKnown], done[kItemsKnown];
  uint64_t full_rows[Shape::kRowBuffers], empty_rows[Shape::kRowBuffers];
  uint64_t full_query[Shape::kQueryStages], empty_query[Shape::kQueryStages];
  uint64_t full_dout[Shape::kDoutStages], empty_dout[Shape::kDoutStages];
  uint64_t full_sums[Shape::kWarpgroups], empty_sums[Shape::kWarpgroups];
  TileMask masks[Shape::kQueryStages][Shape::kWarpgroups];
  float lse[Shape::kQueryStages][Shape::kBlock];  // in units of log2
  float delta[Shape::kQueryStages][Shape::kBlock];
  uint32_t below[Shape::kMostBelow][4];
  uint32_t places[Shape::kWarpgroups][kWarpgroupRows];  // of the rows in their boxes
  HopperItem items[kItemsKnown];
  Interval seen[kItemsKnown][Shape::kMostPlaces];
};

}  // namespace jax_na::cuda
