// What a CTA of a sweep has to do: where its box lies, which streamed positions it meets, and the
// window of every stationary row. Held in shared memory, in the types of this file.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/plan.h"

namespace jax_na::cuda {

// Which pass's side is stationary: queries, or (in the key gradient) keys.
enum class Side { kQueries, kKeys };

// One axis. Boxes and windows are in positions of the CTA's dilation group.
struct AxisWork {
  Rule rule;
  Interval box;  // stationary positions of the CTA
  Interval met;  // streamed positions that any of them meets and the tensor holds
  Held stationary;
  Held streamed;
  bool modular;

  JAX_NA_INLINE int streamed_token(int position) const {
    if (modular) {  // at most a period off, on either side
      if (position < 0) position += rule.length;
      if (position >= rule.length) position -= rule.length;
    }
    return streamed.token(position);
  }
};

// A warp's tile of a stage: positions of a box, or tokens of a line (additional ones).
struct Tile {
  int origin[kMaxRank];   // first position
  int nominal[kMaxRank];  // positions before it belong to another tile
  int row;                // of the stage, of the first column
  int line;               // columns in use, where it is of a line; else 0
  int unsure;             // bits of the axes along which some row may not see some column
};
constexpr int kAllUnsure = (1 << kMaxRank) - 1;
constexpr int kMet = 1 << kMaxRank;  // beside those bits: there is something to see at all

// A warp's count of its steps; in shared memory, since registers are for sums.
struct Progress {
  volatile int step;
  volatile int steps;
};

// The part of a warp: streamed positions that some, and that every, of its rows sees.
struct WarpWork {
  Progress progress;
  Interval need[kMaxRank];
  Interval sure[kMaxRank];
  int next[kMaxRank];  // where its next tile of a stage begins
  Tile tile;
  int more;  // whether there is a tile
  int only;  // whether one tile covers what the warp needs of the only stage
};

// A stationary row. One that holds no token has token -1 and sees nothing.
struct RowWork {
  int token;                // index in the tensor, of one batch entry
  int bias;                 // the row's share of an index into the bias
  Interval seen[kMaxRank];  // streamed positions
};

// Where a row of a stage lies in it. Rows between its lines have met 0.
struct Place {
  uint16_t at[kMaxRank];
  uint16_t met;
};

// A stage's first position, on every axis.
struct StageOrigin {
  int at[kMaxRank];
};

// The stages of one item (a head of a batch entry): boxes that cover what the CTA meets, then lines
// of additional tokens. There is one at least, that an item without any begins and ends in.
struct Stages {
  int count[kMaxRank];
  int begin[kMaxRank];  // of what the CTA meets
  int windows;
  int total;
  int line_rows;

  JAX_NA_INLINE StageOrigin origin(const Sweep& sweep, int stage) const {
    StageOrigin origin{{begin[0], begin[1], begin[2]}};
    if (windows > 1) {
      const int line = stage / count[2], plane = line / count[1];
      origin.at[2] += (stage - line * count[2]) * sweep.stage[2];
      origin.at[1] += (line - plane * count[1]) * sweep.stage[1];
      origin.at[0] += plane * sweep.stage[0];
    }
    return origin;
  }
};

// A step of a CTA: one stage of one item. Offsets are in elements, before the item's first token.
struct Step {
  int64_t query;      // of the queries and their gradient
  int64_t key;        // of the keys, or the additional ones
  int64_t value;      // of the values, or the additional ones
  int64_t out;        // of the results and their cotangent
  int64_t lse;        // of the LSE and delta
  const float* bias;  // of the head, or null
  int64_t dbias;
  Tile tile;       // the whole stage
  int line_begin;  // the first token, where the stage is a line
  int window;      // whether the stage is a box
  int part;        // of the features of the stationary side
  int ordinal;     // items before this one
  int first;       // whether the step is its item's first
  int last;
  int stage;       // of the item's head
  int final_head;  // whether that is the item's last
};
constexpr int kStepsKnown = 4;

struct Work {
  Step steps[kStepsKnown];
  int view[kStepsKnown][kMaxWarps];  // find_view(...) of the streamed stages
  AxisWork axis[kMaxRank];
  WarpWork warp[kMaxWarps];
  Stages stages;

  JAX_NA_INLINE bool empty() const {
    bool none = false;
    for (const AxisWork& a : axis) none = none || a.box.size() == 0;
    return none;
  }
};

}  // namespace jax_na::cuda
