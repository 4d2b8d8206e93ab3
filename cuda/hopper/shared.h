// The shared memory of the Hopper kernel.
//
// Rows of 128 bytes, 64 elements of a token, in panels: the first 64 features of all rows of a
// tensor, then the next. The copy engine writes them so, and the tensor cores read them so. Where
// the head dimension ends inside a panel, the rest holds what follows in the tensor and no product
// reads it. Heads of 32 features have rows of 64 bytes.
#pragma once

#include <cstdint>

#include "cuda/hopper/item.h"

namespace jax_na::cuda {

constexpr int kPanelElements = 64;
constexpr int kPanelRowBytes = 128;
constexpr int kMaxSharedBytes = 227 * 1024;
// Of each of two CTAs of a multiprocessor, which takes 1 KiB more of each.
constexpr int kHalfSharedBytes = 113 * 1024;

// Sizes and elements of a compiled kernel: nothing else is a template parameter.
template <typename T, int kHeadDimension, int kBlockKeys, int kWarpgroupCount, int kResidentCtas>
struct HopperShape {
  using Element = T;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kBlock = kBlockKeys;
  static constexpr int kWarpgroups = kWarpgroupCount;
  static constexpr int kResident = kResidentCtas;  // CTAs of a multiprocessor
  static_assert(kResident == 1 || kResident == 2, "registers are known for one and for two");
  static constexpr int kThreads = 128 * (1 + kWarpgroups);
  static constexpr int kConsumerRegisters = kResident == 1 ? 224 : 96;  // of a thread
  static constexpr int kOtherRegisters = kResident == 1 ? 56 : 48;
  static_assert(kResident * 128 * (kOtherRegisters + kWarpgroups * kConsumerRegisters) <= 65536,
                "more registers than there are");
  static constexpr int kLineBytes = kHeadDim > 32 ? 128 : 64;  // of a row of a panel
  static constexpr int kLineElements = kLineBytes / 2;
  static constexpr int kPanels = (kHeadDim + kLineElements - 1) / kLineElements;
  static constexpr int kRowPanelBytes = kWarpgroupRows * kLineBytes;
  static constexpr bool kValuesLate = true;  // needed after the keys of the next tile
  static constexpr int kQueryTensors = 1;    // that have the rows of queries
  static constexpr int kQueryBytes = kPanels * kRowPanelBytes;  // of a warpgroup, in each of them
  static constexpr int kStagePanelBytes = kBlock * kLineBytes;
  static constexpr int kStageBytes = kPanels * kStagePanelBytes;
  // Results leave in panels that the head dimension is a multiple of.
  static constexpr int kOutElements = kHeadDim % 64 == 0 ? 64 : 32;
  static constexpr int kOutPanels = kHeadDim / kOutElements;
  static constexpr int kOutPanelBytes = kWarpgroupRows * kOutElements * 2;
  static constexpr int kOutBytes = kOutPanels * kOutPanelBytes;  // of a warpgroup
  static constexpr int kControlBytes = 16 * 1024;                // at most
  static constexpr int kMostBytes = kResident == 1 ? kMaxSharedBytes : kHalfSharedBytes;
  static constexpr int bytes(int query_buffers, int stages) {
    return query_buffers * kWarpgroups * kQueryBytes + stages * kStageBytes + kControlBytes + 1024;
  }
  // Results leave from the place of their queries. With room for the queries of two items a
  // warpgroup begins an item before it ends the one before.
  static constexpr int kQueryBuffers = bytes(2, 4) <= kMostBytes ? 2 : 1;
  static constexpr int kStages = bytes(kQueryBuffers, 6) <= kMostBytes ? 3 : 2;
  static constexpr int kValueStages = kStages;
  static constexpr int kSharedBytes = bytes(kQueryBuffers, 2 * kStages);
  static_assert(kSharedBytes <= kMostBytes, "more shared memory than there is");
  static_assert(kBlock % 16 == 0 && kBlock <= 128, "a lane's columns are the bits of a word");

  // From the aligned beginning.
  static constexpr int kQueryAt = 0;
  static constexpr int kKeyAt = kQueryAt + kQueryBuffers * kWarpgroups * kQueryBytes;
  static constexpr int kValueAt = kKeyAt + kStages * kStageBytes;
  static constexpr int kControlAt = kValueAt + kStages * kStageBytes;

  // Boxes of 64 and of kBlock positions, extents summed over the axes.
  static constexpr int kMostPlaces = kWarpgroupRows * kWarpgroups + 2 * kMostWarpgroups;
  static constexpr int kMostBelow = kBlock + 5;
};

// Tiles follow each other from this one on, along an axis, and end before it. Consumers look for
// maxima until every row has met something: where there are many tiles light ones begin in the
// middle, which most rows meet.
template <typename Shape>
__device__ __forceinline__ int first_tile(const HopperItem& item, int axis) {
  const int tiles = item.axis[axis].tiles;
  return Shape::kResident > 1 && tiles >= 8 ? tiles / 2 : 0;
}

// Items that are described at a time.
constexpr int kItemsKnown = 3;

// What a warpgroup sees of a tile: bits of its rows' columns, unless it sees all of them. Only the
// masks of light consumers tell nothing from something.
struct TileMask {
  enum Seen : int { kNothing, kSomething, kEverything };

  uint32_t word[kWarpgroupRows][4];
  Seen seen;
};

// The same of a tile of keys, of which less is to be written: what a row sees is what its line of
// the box sees along z and y, and of that what its place sees along x. Places follow lines.
struct KeyMask {
  uint32_t word[kWarpgroupRows + 1][4];
  TileMask::Seen seen;
};

// What the warps tell each other.
template <typename Shape>
struct HopperControl {
  uint64_t described[kItemsKnown], done[kItemsKnown];
  uint64_t full_query[Shape::kQueryBuffers][Shape::kWarpgroups];
  uint64_t empty_query[Shape::kQueryBuffers][Shape::kWarpgroups];
  uint64_t full_key[Shape::kStages], empty_key[Shape::kStages];
  uint64_t full_value[Shape::kValueStages], empty_value[Shape::kValueStages];
  KeyMask masks[Shape::kStages][Shape::kWarpgroups];
  uint32_t lines[Shape::kWarpgroups][kWarpgroupRows][4];  // of the present line of tiles
  uint32_t below[Shape::kMostBelow][4];
  uint32_t places[Shape::kWarpgroups][kWarpgroupRows];  // of the rows in their boxes
  uint32_t row_words[2][128];                           // of masks
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
