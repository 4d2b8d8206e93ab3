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

struct Work {
  AxisWork axis[kMaxRank];
  WarpWork warp[kMaxWarps];

  JAX_NA_INLINE bool empty() const {
    bool none = false;
    for (const AxisWork& a : axis) none = none || a.box.size() == 0;
    return none;
  }
};

}  // namespace jax_na::cuda
