// What a CTA that streams knows of its stages and items, in shared memory.
#pragma once

#include <cstdint>

#include "cuda/plan.h"

namespace jax_na::cuda {

constexpr int kStreamedBlock = 64;  // keys of a stage

// A stage of keys: a box of positions, or a line of additional tokens. A row's token is the sum of
// a share of the stage, and one of the row's place in it.
struct KeyStage {
  int origin[kMaxRank];           // first position
  int token;                      // the stage's share
  alignas(8) uint16_t there[4];   // rows that hold tokens, as bits (see tile/columns.h)
  uint8_t marks[kStreamedWarps];  // of each warp find_view(...), and the bits below
  uint8_t shares;                 // which of the list's
  uint8_t next;                   // where the next stage is in the list
  int line;                       // tokens, where it is a line; else 0
  int batch;                      // which one to describe when the stage is met

  static constexpr uint32_t kFirst = 1 << 4;      // of its item
  static constexpr uint32_t kLast = 1 << 5;       // of its item
  static constexpr uint32_t kDescribes = 1 << 6;  // a batch
  static constexpr uint32_t kPrepares = 1 << 7;   // the shares of the next stage
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

// What the rows of a stage add to its token, each by its place.
struct alignas(16) RowShares {
  int of_row[kStreamedBlock];

  // Where that of a row is: those of a thread that copies each `apart`-th row are neighbours.
  JAX_NA_INLINE static int at(int row, int apart) {
    return row % apart * (kStreamedBlock / apart) + row / apart;
  }
};

// Stages are described in batches, of which two are known: the one that is met, and the next.
struct StageList {
  static constexpr int kBatch = 32;

  KeyStage stages[2 * kBatch];
  KeyAxis axes[kMaxRank];
  // Of all boxes where no axis is periodic; and of three stages where one is, or that are lines: an
  // item's first, and those of even and odd numbers.
  RowShares shares[4];
  // Which keys of a stage the rows of each warp see: a word for each of four lanes.
  alignas(16) uint32_t seen[kStreamedWarps][32][4];
  StreamedItem items[2];          // by their number's parity
  uint32_t item[kStreamedWarps];  // the parity of a warp's present one
  int described;                  // the number of the last one that is described
  int modular;                    // whether an axis is
  int scale_first;                // whether scores are scaled before weights are made of them
  float scale;                    // of scores, in units of log2
  float factor;                   // weights are exp2(factor * score - ..)
};

}  // namespace jax_na::cuda
