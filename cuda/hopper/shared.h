// The shared memory of the Hopper kernel.
//
// Rows of 128 bytes, 64 elements of a token, in panels: the first 64 features of all rows of a
// tensor, then the next. The copy engine writes them so, and the tensor cores read them so. Where
// the head dimension ends inside a panel, the rest holds what follows in the tensor and no product
// reads it.
#pragma once

#include <cstdint>

#include "cuda/hopper/item.h"

namespace jax_na::cuda {

constexpr int kPanelElements = 64;
constexpr int kPanelRowBytes = 128;
constexpr int kMaxSharedBytes = 227 * 1024;

// Sizes and elements of a compiled kernel: nothing else is a template parameter.
template <typename T, int kHeadDimension, int kBlockKeys, int kWarpgroupCount>
struct HopperShape {
  using Element = T;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kBlock = kBlockKeys;
  static constexpr int kWarpgroups = kWarpgroupCount;
  static constexpr int kThreads = 128 * (1 + kWarpgroups);
  static constexpr int kPanels = (kHeadDim + kPanelElements - 1) / kPanelElements;
  static constexpr int kQueryPanelBytes = kWarpgroupRows * kPanelRowBytes;
  static constexpr int kQueryBytes = kPanels * kQueryPanelBytes;  // of a warpgroup
  static constexpr int kStagePanelBytes = kBlock * kPanelRowBytes;
  static constexpr int kStageBytes = kPanels * kStagePanelBytes;
  // Results leave in panels that the head dimension is a multiple of.
  static constexpr int kOutElements = kHeadDim % 64 == 0 ? 64 : 32;
  static constexpr int kOutPanels = kHeadDim / kOutElements;
  static constexpr int kOutPanelBytes = kWarpgroupRows * kOutElements * 2;
  static constexpr int kOutBytes = kOutPanels * kOutPanelBytes;  // of a warpgroup
  static constexpr int kControlBytes = 20 * 1024;                // at most
  static constexpr int bytes(int stages, bool own_out) {
    return kWarpgroups * (kQueryBytes + (own_out ? kOutBytes : 0)) + stages * kStageBytes +
           kControlBytes + 1024;
  }
#ifndef JAX_NA_OWN_STAGES
#define JAX_NA_OWN_STAGES 4
#endif
  // Where results have no room of their own they take that of their queries.
  static constexpr bool kOwnOut = bytes(JAX_NA_OWN_STAGES, true) <= kMaxSharedBytes;
  static constexpr int kKeyStages = bytes(6, kOwnOut) <= kMaxSharedBytes ? 3 : 2;
  static constexpr int kValueStages = bytes(kKeyStages + 3, kOwnOut) <= kMaxSharedBytes ? 3 : 2;
  static constexpr int kSharedBytes = bytes(kKeyStages + kValueStages, kOwnOut);
  static_assert(kSharedBytes <= kMaxSharedBytes, "more shared memory than there is");
  static_assert(kBlock % 32 == 0 && kBlock <= 128, "a lane's columns are the bits of a word");

  // From the aligned beginning.
  static constexpr int kQueryAt = 0;
  static constexpr int kKeyAt = kQueryAt + kWarpgroups * kQueryBytes;
  static constexpr int kValueAt = kKeyAt + kKeyStages * kStageBytes;
  static constexpr int kOutAt = kOwnOut ? kValueAt + kValueStages * kStageBytes : kQueryAt;
  static constexpr int kOutStride = kOwnOut ? kOutBytes : kQueryBytes;
  static constexpr int kControlAt =
      kValueAt + kValueStages * kStageBytes + (kOwnOut ? kWarpgroups * kOutBytes : 0);

  // Boxes of 64 and of kBlock positions, extents summed over the axes.
  static constexpr int kMostPlaces = kWarpgroupRows * kWarpgroups + 2 * kMostWarpgroups;
  static constexpr int kMostBelow = kBlock + 5;
};

// What producer and consumers tell each other. Items are described three ahead at most: the
// consumers may still be in the one before the one whose queries were asked for last.
constexpr int kItemsKnown = 3;

// What a warpgroup sees of a tile: bits of its rows' columns, unless it sees all of them.
struct TileMask {
  uint32_t word[kWarpgroupRows][4];
  int sure;
};

template <typename Shape>
struct HopperControl {
  uint64_t described[kItemsKnown];
  uint64_t full_query[Shape::kWarpgroups], empty_query[Shape::kWarpgroups];
  uint64_t full_key[Shape::kKeyStages], empty_key[Shape::kKeyStages];
  uint64_t full_value[Shape::kValueStages], empty_value[Shape::kValueStages];
  TileMask masks[Shape::kKeyStages][Shape::kWarpgroups];
  uint32_t below[Shape::kMostBelow][4];
  HopperItem items[kItemsKnown];
  Interval seen[kItemsKnown][Shape::kMostPlaces];
};

// A stage of a ring, and the parity of its phase.
template <int kStages>
struct RingPlace {
  int stage = 0;
  int parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace jax_na::cuda
