// What a CTA that streams knows of its stages and items, in shared memory.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

constexpr int kStreamedBlock = 64;  // keys of a stage

// A stage of keys: a box of positions, or a line of additional tokens.
struct KeyStage {
  alignas(16) int tokens[kStreamedBlock];  // of its rows, see StageList::place(...)
  Tile tile;
  uint32_t marks;  // find_view(...) of warp w from bit 4 w on, and the bits below
  uint32_t next;   // where the next stage is in the list
  int batch;       // which batch to describe when the stage is met

  static constexpr uint32_t kFirst = 1 << 16;      // of its item
  static constexpr uint32_t kLast = 1 << 17;       // of its item
  static constexpr uint32_t kDescribes = 1 << 18;  // a batch
};

// How a position along an axis becomes its share of a token.
struct alignas(16) KeyAxis {
  int end;     // of the positions that the CTA meets
  int length;  // of the period; 0 where the axis is none
  int factor;
  int addend;
};

// Where an item's rows are.
struct StreamedItem {
  const char* key[2];  // of the tensor, and of additional tokens
  const char* value[2];
  int64_t query, out, lse;  // offsets in elements
  const float* bias;        // of the head, or null
  int more;                 // whether the CTA has another item behind it
};

// Stages are described in batches, of which two are known: the one that is met, and the next.
struct StageList {
  static constexpr int kBatch = 8;

  KeyStage stages[2 * kBatch];
  KeyAxis axes[kMaxRank];
  // Which keys of a stage the rows of each warp see: a word for each of four lanes.
  alignas(16) uint32_t seen[kStreamedWarps][32][4];
  StreamedItem items[2];  // by their number's parity
  uint32_t item;          // the parity of the present one
  int described;          // the number of the last one that is described
  int scale_first;        // whether scores are scaled before weights are made of them
  float scale;            // of scores, in units of log2
  float factor;           // weights are exp2(factor * score - ..)

  // Where the token of a row is: those of a thread that copies each `apart`-th row are neighbours.
  JAX_NA_INLINE static int place(int row, int apart) {
    return row % apart * (kStreamedBlock / apart) + row / apart;
  }
};

}  // namespace jax_na::cuda
