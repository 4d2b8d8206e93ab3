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
  float sum[4] = {0.f, 0.f, 0.f, 0.f};  // of the lane's own even and odd columns, row by row

  // Moves the references to suit `scores`. Returns true where earlier results are to be multiplied
  // by `shrink`, which all lanes of a warp agree on. `factor` is positive. Rows that do not exist
  // hold anything and move nothing.
  template <int kScores>
  __device__ __forceinline__ bool settle(const float (&scores)[kScores], float factor,
                                         const bool (&exists)[2], float (&shrink)[2]) {
    float highest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) highest[i] = scores[i];
#pragma unroll
    for (int n = 4; n < kScores; n += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) highest[i] = fmaxf(highest[i], scores[n + i]);
    }
    float top[2];
    bool outgrown = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = __fmul_rn(fmaxf(highest[2 * r], highest[2 * r + 1]), factor);
      outgrown = outgrown || (exists[r] && top[r] > reference[r] + kSlack);
    }
    if (!__any_sync(~0u, outgrown)) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float next = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
      next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
      next = fmaxf(next, reference[r]);
      // A row that has seen nothing has nothing to shrink, and no difference of infinities.
      shrink[r] = next == -INFINITY ? 1.f : ptx::exp2(reference[r] - next);
      reference[r] = next;
      sum[2 * r] *= shrink[r];
      sum[2 * r + 1] *= shrink[r];
    }
    return true;
  }

  // Replaces scores [kBegin, kEnd) by weights.
  template <int kBegin, int kEnd, int kScores>
  __device__ __forceinline__ void weigh(float (&scores)[kScores], float factor) {
    float minus[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) minus[r] = reference[r] == -INFINITY ? 0.f : -reference[r];
#pragma unroll
    for (int n = kBegin; n < kEnd; ++n) {
      scores[n] = ptx::exp2(fmaf(scores[n], factor, minus[n / 2 % 2]));
      sum[n % 4] += scores[n];
    }
  }

  // Sums over the lanes of a row: the factors that normalise it, and its log-sum-exp.
  __device__ __forceinline__ void finish(float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float all = sum[2 * r] + sum[2 * r + 1];
      all += __shfl_xor_sync(~0u, all, 1);
      all += __shfl_xor_sync(~0u, all, 2);
      inverse[r] = all == 0.f ? 0.f : __fdividef(1.f, all);
      lse[r] = all == 0.f ? -INFINITY : (reference[r] + log2f(all)) * 0.6931471805599453f;
    }
  }
};

}  // namespace jax_na::cuda
