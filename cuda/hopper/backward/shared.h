// The shared memory of the Hopper backward kernel: rows of 128 bytes in panels, as in the forward
// kernel, of 128 keys and their values, of tiles of queries and of the cotangents of their results.
// Where a head has no more features than 64 bytes hold, rows have 64 bytes.
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
  // CTAs of a multiprocessor: two where gradients of keys and values need few registers.
  static constexpr int kResident = kHeadDim > 32 ? 1 : 2;
  // Registers of a thread that computes, and of another.
  static constexpr bool kMany = kSums && kHeadDim == 128;  // few are left for the others
  static constexpr int kComputeRegisters = kResident == 2 ? 96 : kMany ? 232 : 224;
  static constexpr int kOtherRegisters = kResident == 2 ? 48 : kMany ? 40 : 56;
  // Where the gradients of 64 keys are more than the registers of a warpgroup hold, all have the
  // same keys, and each a part of the queries and a part of the features. Elsewhere each has its
  // own keys.
  static constexpr bool kWide = kHeadDim > 128;
  static constexpr int kRowGroups = kWide ? 1 : kWarpgroups;
  static constexpr int kRows = kRowGroups * kWarpgroupRows;
  // Up to 64 features there are registers for the sums of a tile while the next one's gradients of
  // scores are made, and memory for the queries of two steps of which each has two tiles: those
  // that only one warpgroup needs go by in pairs, one for each (pairs.h).
  static constexpr bool kPairs = kSums && kHeadDim > 32 && kHeadDim <= 64;
  static constexpr int kLineBytes = kHeadDim > 32 ? 128 : 64;  // of a row of a panel
  static constexpr int kLineElements = kLineBytes / 2;
  static constexpr int kPanels = (kHeadDim + kLineElements - 1) / kLineElements;
  static constexpr int kPartBytes = kWarpgroupRows * kLineBytes;  // a warpgroup's, of a panel
  static constexpr int kRowPanelBytes = kRowGroups * kPartBytes;
  static constexpr int kRowBytes = kPanels * kRowPanelBytes;  // of the keys, or of their values
  static constexpr int kStagePanelBytes = kBlock * kLineBytes;
  static constexpr int kStageBytes = kPanels * kStagePanelBytes;
  // Gradients leave from the place of their keys and values, in panels that the head dimension is a
  // multiple of. Where those are not the ones of the keys, they fill the place anew: from its
  // beginning those of the first warpgroup, from its middle those of the second.
  static constexpr int kOutElements = kHeadDim % kPanelElements == 0 ? kPanelElements : 32;
  static constexpr int kOutPanels = kHeadDim / kOutElements;
  static_assert(kHeadDim % kOutElements == 0, "panels are whole");
  static constexpr bool kOutAsKeys = kOutElements == kLineElements;
  static constexpr int kOutPanelBytes =
      kOutAsKeys ? kRowPanelBytes : kWarpgroupRows * kOutElements * 2;
  static constexpr int kOutPartBytes = kOutAsKeys ? kPartBytes : kRowBytes / kWarpgroups;
  // The gradients of scores: rows of keys, of the queries of a tile. Only the sums need them here,
  // and warpgroups that have the same keys.
  static constexpr int kDscoreBytes = kSums || kWide ? kRows * kPanelRowBytes : 0;
  static constexpr int kDscoreBuffers = kWide ? 1 : 2;
  // Weights, where not only the warpgroup that made them needs them.
  static constexpr int kWeightBytes = kWide ? kDscoreBytes : 0;
  // What a tile adds to the gradient of its queries: a warpgroup has a part of the features, and of
  // a panel that is not whole what is not stored.
  static constexpr int kSumColumns = kWide ? kPanelElements : kPanels * kLineElements / kWarpgroups;
  static constexpr int kSumElements = 32;  // of a row of 128 bytes
  static constexpr int kSumPanelBytes = kBlock * kPanelRowBytes;
  // Warpgroups whose columns fill whole rows have a part of their own; else there is one for both.
  static constexpr int kSumParts = kSumColumns % kSumElements == 0 ? kWarpgroups : 1;
  static constexpr int kSumPanels = kWarpgroups * kSumColumns / kSumElements / kSumParts;
  static constexpr int kSumBytes = kSums ? kSumPanels * kSumPanelBytes : 0;  // of a part
  static constexpr int kSumBuffers = kPairs ? 2 : 1;
  // A wide head's features are added in two rounds. In the first a part has a panel of 64 to
  // itself; in the second it has the next one, or half of the one between them.
  static constexpr int kSumRounds = kWide ? 2 : 1;
  static constexpr int kSecondColumns = kHeadDim / 2 - kPanelElements;  // of a wide head
  static constexpr int sum_panels(int round) {
    return round == 0 ? kSumPanels : kSecondColumns / kSumElements;
  }
  static constexpr int sum_column(int round, int part) {
    if (!kWide) return part * kSumPanels * kSumElements;
    if (round == 0) return 2 * part * kPanelElements;
    return kPanelElements + part * (kHeadDim == 256 ? 2 * kPanelElements : kSecondColumns);
  }

  // With room for them, the keys and values of an item are fetched while the one before runs.
  static constexpr int kRowBuffers = kWide || (kSums && kHeadDim > 64) ? 1 : 2;
  // Queries of two steps, of which each may have two tiles, where there is room for them.
  static constexpr int kQueryStages = kWide ? 2 : kPairs ? 4 : 3;
  static constexpr int kDoutStages = kPairs                    ? 4
                                     : kResident == 2          ? 3
                                     : kSums && kHeadDim > 192 ? 1
                                                               : 2;
  static constexpr int kControlBytes = (kPairs ? 18 : 16) * 1024;  // at most

  // From the aligned beginning.
  static constexpr int kKeyAt = 0;
  static constexpr int kValueAt = kKeyAt + kRowBytes;
  static constexpr int kQueryAt = kKeyAt + kRowBuffers * 2 * kRowBytes;
  static constexpr int kDoutAt = kQueryAt + kQueryStages * kStageBytes;
  static constexpr int kDscoreAt = kDoutAt + kDoutStages * kStageBytes;
  static constexpr int kWeightAt = kDscoreAt + kDscoreBuffers * kDscoreBytes;
  static constexpr int kSumAt = kWeightAt + kWeightBytes;
  static constexpr int kControlAt = kSumAt + kSumBuffers * kSumParts * kSumBytes;
  static constexpr int kSharedBytes = kControlAt + kControlBytes + 1024;
  static constexpr int kMostBytes = kResident == 2 ? kHalfSharedBytes : kMaxSharedBytes;
  static_assert(kSharedBytes <= kMostBytes, "more shared memory than there is");

  // Boxes of 64 positions for each warpgroup, and of kBlock, extents summed over the axes.
  static constexpr int kMostPlaces = kRows + 2 * kMostWarpgroups;
  static constexpr int kMostBelow = kBlock + 5;
};

// What a warpgroup sees of a tile: bits of its rows' columns, unless it sees all of them. What a
// row sees is what its line of the box sees along z and y, and of that what its place sees along x;
// the kernel's row_words say where these words are.
struct RowMask {
  uint32_t word[kWarpgroupRows + 1][4];
  TileMask::Seen seen;
};

// What the warps tell each other.
template <typename Shape>
struct HopperBackwardControl {
  uint64_t described[kItemsKnown], done[kItemsKnown];
  uint64_t full_rows[Shape::kRowBuffers], empty_rows[Shape::kRowBuffers];
  uint64_t full_query[Shape::kQueryStages], empty_query[Shape::kQueryStages];
  uint64_t full_dout[Shape::kDoutStages], empty_dout[Shape::kDoutStages];
  uint64_t full_sums[Shape::kSumBuffers][Shape::kSumParts];
  uint64_t empty_sums[Shape::kSumBuffers][Shape::kSumParts];
  uint64_t full_dscores[Shape::kDscoreBuffers], empty_dscores[Shape::kDscoreBuffers];
  RowMask masks[Shape::kQueryStages][Shape::kRowGroups];
  float lse[Shape::kQueryStages][Shape::kBlock];  // in units of log2
  float delta[Shape::kQueryStages][Shape::kBlock];
  uint32_t below[Shape::kMostBelow][4];
  uint32_t lines[Shape::kRowGroups][kWarpgroupRows][4];  // of the present line of tiles
  uint32_t row_words[2][kWarpgroupRows];                 // of boxes, and of additional keys
  int next_item;  // where they are not taken from a counter for all
  HopperItem items[kItemsKnown];
  int additional[kItemsKnown];  // the first of an item's additional keys; negative: it has others
  int part[kItemsKnown];        // of the queries of a launch, which such an item has
  Interval seen[kItemsKnown][Shape::kMostPlaces];
};

}  // namespace jax_na::cuda
