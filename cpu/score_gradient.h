// What both passes of the backward pass share: delta, and what becomes of scores.
//
// There is no sum that two tasks share: gradients are bitwise the same for any number of threads.
//
// With the weights recomputed from LSE, P = exp(S - LSE), and delta = rowsum(dO * O) - dLSE:
//   dS = P * (dO V^T - delta);  dQ = scale * dS K;  dK = scale * dS^T Q;  dV = P^T dO;  dbias = sum
//   of dS.
#pragma once

#include "cpu/forward.h"

namespace jax_na::JAX_NA_ISA {

// exp(score - LSE) in base 2, at most 1: the rounding of a huge LSE may put it below the score. A
// row that sees nothing, or only scores of -inf, has LSE -inf and no weights.
template <typename T>
JAX_NA_INLINE Vec<T> weight_of(Vec<T> score, Vec<T> lse2) {
  Vec<T> exponent = score - lse2;
  Vec<T> weight = exp2<T>(exponent > Vec<T>{} ? Vec<T>{} : exponent);
  return lse2 == broadcast<T>(-std::numeric_limits<T>::infinity()) ? Vec<T>{} : weight;
}

// scores -> weights and their gradient, for rows that hold LSE and delta (the query gradient).
// `dweights` enters as dO V^T and leaves as dS; `scores` leaves as P.
template <typename T, int M>
JAX_NA_INLINE void gradient_by_row(const Meeting<T, M>& meeting, T* scores, T* dweights,
                                   const T* lse2, const T* delta) {
  for (int line = 0; line < meeting.line_count; ++line) {
    for (int s = 0; s < meeting.per_line; ++s) {
      for (int m = 0; m < M; ++m, scores += kLanes<T>, dweights += kLanes<T>) {
        Vec<T> weight = weight_of<T>(load(scores), broadcast<T>(lse2[m]));
        Vec<T> gradient = weight * (load(dweights) - delta[m]);
        if (!meeting.free[s]) {
          weight = select<T>(meeting.masks[s][m], weight, Vec<T>{});
          gradient = select<T>(meeting.masks[s][m], gradient, Vec<T>{});
        }
        store(scores, weight);
        store(dweights, gradient);
      }
    }
  }
}

// The same where LSE and delta belong to the lanes (the key gradient): one line of them for every
// line of the chunk.
template <typename T, int M>
JAX_NA_INLINE void gradient_by_lane(const Meeting<T, M>& meeting, T* scores, T* dweights,
                                    const T* lse2, const T* delta, int pitch) {
  for (int n = 0; n < meeting.count(); ++n) {
    int s = n % meeting.per_line;
    int64_t at = static_cast<int64_t>(meeting.strips[n].line) * pitch + meeting.strips[n].column;
    Vec<T> shift = load(lse2 + at);
    Vec<T> mean = load(delta + at);
    for (int m = 0; m < M; ++m, scores += kLanes<T>, dweights += kLanes<T>) {
      Vec<T> weight = weight_of<T>(load(scores), shift);
      Vec<T> gradient = weight * (load(dweights) - mean);
      if (!meeting.free[s]) {
        weight = select<T>(meeting.masks[s][m], weight, Vec<T>{});
        gradient = select<T>(meeting.masks[s][m], gradient, Vec<T>{});
      }
      store(scores, weight);
      store(dweights, gradient);
    }
  }
}

// delta = rowsum(dO * O) - dLSE; a task is one row of tokens along x.
template <typename T>
void delta_line(const BackwardArgs& args, const Codec<T>& codec, int64_t task) {
  const Problem& p = *args.problem;
  const int64_t rows = static_cast<int64_t>(p.axes[2].query_count) * p.heads;
  const int64_t at = task * rows * p.value_dim * codec.bytes;
  T* delta = static_cast<T*>(args.delta) + task * rows;
  const T* dlse = static_cast<const T*>(args.dlse) + task * rows;
  codec.dots(static_cast<const std::byte*>(args.out) + at,
             static_cast<const std::byte*>(args.dout) + at, rows, p.value_dim, delta);
  for (int64_t i = 0; i < rows; ++i) delta[i] -= dlse[i];
}

}  // namespace jax_na::JAX_NA_ISA
