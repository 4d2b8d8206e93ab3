// What a CTA of a sweep has to do: where its box lies, which streamed positions it meets, and the
// window of every stationary row. Held in shared memory, in the types of this file.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/plan.h"

namespace jax_na::cuda {

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

// The part of a warp: streamed positions that some, and that every, of its rows sees.
struct WarpWork {
  Interval need[kMaxRank];
  Interval sure[kMaxRank];
};

// A stationary row. One that holds no token has token -1 and sees nothing.
struct RowWork {
  int token;                // index in the tensor, of one batch entry
  int bias;                 // the row's share of an index into the bias
  Interval seen[kMaxRank];  // streamed positions
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
      origin.at[2] += stage % count[2] * sweep.stage[2];
      origin.at[1] += stage / count[2] % count[1] * sweep.stage[1];
      origin.at[0] += stage / (count[2] * count[1]) * sweep.stage[0];
    }
    return origin;
  }
  // Tokens of a line, or 0 for a box.
  JAX_NA_INLINE int line(int stage, int additional) const {
    return stage < windows ? 0 : min_of(additional - (stage - windows) * line_rows, line_rows);
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
  StageOrigin origin;
  int line;        // tokens, where the stage is a line
  int line_begin;  // the first of them
  int window;      // whether the stage is a box
  int part;        // of the features of the stationary side
  int ordinal;     // items before this one
  int first;       // whether the step is its item's first
  int last;
};
constexpr int kStepsKnown = 4;

struct Work {
  Step steps[kStepsKnown];
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
