// The online softmax of a lane's two rows, with few corrections.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/ptx/math.h"

namespace jax_na::cuda {

// Weights are exp2(factor * score - reference). The reference is a maximum of the row, but not
// always the present one: it moves, and earlier results shrink, only when some row of the warp has
// outgrown its own by kSlack. Until then weights are below 2^kSlack, which changes no rounding,
// since what they are summed in and divided by has the same factor.
struct LazySoftmax {
  static constexpr float kSlack = 8.f;

  float reference[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.f, 0.f};  // of the lane's own columns

  // Replaces scores by weights. Returns true where earlier results are to be multiplied by
  // `shrink`, which all lanes of a warp agree on. `factor` is positive. Rows that do not exist hold
  // anything and move nothing.
  template <int kScores>
  __device__ __forceinline__ bool step(float (&scores)[kScores], float factor,
                                       const bool (&exists)[2], float (&shrink)[2]) {
    float highest[2][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) highest[i / 2][i % 2] = scores[i];
#pragma unroll
    for (int n = 4; n < kScores; n += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        highest[i / 2][i % 2] = fmaxf(highest[i / 2][i % 2], scores[n + i]);
    }
    float top[2];
    bool outgrown = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = __fmul_rn(fmaxf(highest[r][0], highest[r][1]), factor);
      outgrown = outgrown || (exists[r] && top[r] > reference[r] + kSlack);
    }
    const bool moves = __any_sync(~0u, outgrown);
    if (moves) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float next = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
        next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
        next = fmaxf(next, reference[r]);
        // A row that has seen nothing has nothing to shrink, and no difference of infinities.
        shrink[r] = next == -INFINITY ? 1.f : ptx::exp2(reference[r] - next);
        reference[r] = next;
        sum[r] *= shrink[r];
      }
    }
    float total[2][2] = {{0.f, 0.f}, {0.f, 0.f}};
    float minus[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) minus[r] = reference[r] == -INFINITY ? 0.f : -reference[r];
#pragma unroll
    for (int n = 0; n < kScores; n += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n + i] = ptx::exp2(fmaf(scores[n + i], factor, minus[i / 2]));
        total[i / 2][i % 2] += scores[n + i];
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] += total[r][0] + total[r][1];
    return moves;
  }

  // Sums over the lanes of a row: the factors that normalise it, and its log-sum-exp.
  __device__ __forceinline__ void finish(float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      inverse[r] = sum[r] == 0.f ? 0.f : __fdividef(1.f, sum[r]);
      lse[r] = sum[r] == 0.f ? -INFINITY : (reference[r] + log2f(sum[r])) * 0.6931471805599453f;
    }
  }
};

}  // namespace jax_na::cuda
