// The online softmax of a lane's two rows that looks for no maxima, but where it has to.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/ptx/math.h"

namespace jax_na::cuda {

// Weights are exp2(factor * score - reference). The reference is a maximum of the row's scores up
// to some tile. Tiles behind it are weighed with it as it is: a weight that is larger than one
// changes no rounding, since what weights are summed in and divided by has the same factor. The sum
// of a tile's weights, which is found anyway, shows when one of them may have become too large for
// its type; then the scores are needed once more, and the reference moves.
struct OnlineSoftmax {
  static constexpr float kMost = 16384.f;  // of a lane's weights of a tile, in total: fits float16

  float minus[2] = {0.f, 0.f};  // the references, negative
  float sum[2] = {0.f, 0.f};    // of the lane's own columns
  bool settled = false;   // whether every row that exists has met something, in all lanes of a warp
  float even[2], odd[2];  // the tile's part of the sums

  // Moves the references to the maxima of what was met up to `scores`; earlier results are to be
  // multiplied by `shrink`. `factor` is positive.
  template <int kScores>
  __device__ __forceinline__ void settle(const float (&scores)[kScores], float factor,
                                         float (&shrink)[2]) {
    float highest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) highest[i] = scores[i];
#pragma unroll
    for (int n = 4; n < kScores; n += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) highest[i] = fmaxf(highest[i], scores[n + i]);
    }
    bool all = true;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float next = __fmul_rn(fmaxf(highest[2 * r], highest[2 * r + 1]), factor);
      // A row that has met something has a sum in some lane.
      float before = sum[r] > 0.f ? -minus[r] : -INFINITY;
#pragma unroll
      for (int lanes = 1; lanes <= 2; lanes *= 2) {
        next = fmaxf(next, __shfl_xor_sync(~0u, next, lanes));
        before = fmaxf(before, __shfl_xor_sync(~0u, before, lanes));
      }
      next = fmaxf(next, before);
      shrink[r] = before == -INFINITY ? 1.f : ptx::exp2(before - next);
      const bool meets = next != -INFINITY;
      minus[r] = meets ? -next : 0.f;
      sum[r] *= shrink[r];
      all = all && meets;
    }
    settled = !__any_sync(~0u, !all);
  }

  // Replaces scores [kBegin, kEnd) of a tile by weights; those before are weights already.
  template <int kBegin, int kEnd, int kScores>
  __device__ __forceinline__ void weigh(float (&scores)[kScores], float factor) {
#pragma unroll
    for (int n = kBegin; n < kEnd; ++n) {
      const int r = n / 2 % 2;
      const float weight = ptx::exp2(fmaf(scores[n], factor, minus[r]));
      float& part = n % 2 == 0 ? even[r] : odd[r];
      part = n < 4 ? weight : part + weight;
      scores[n] = weight;
    }
  }
  // Whether the tile's weights are to be trusted, of all rows of the warp.
  __device__ __forceinline__ bool trusts() const {
    bool trusted = true;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      trusted = trusted && even[r] + odd[r] <= kMost;  // what is no number is not
    return !__any_sync(~0u, !trusted);
  }
  __device__ __forceinline__ void add() {
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] += even[r] + odd[r];
  }

  // Sums over the lanes of a row: the factors that normalise it, and its log-sum-exp.
  __device__ __forceinline__ void finish(float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float all = sum[r];
      all += __shfl_xor_sync(~0u, all, 1);
      all += __shfl_xor_sync(~0u, all, 2);
      inverse[r] = all == 0.f ? 0.f : __fdividef(1.f, all);
      lse[r] = all == 0.f ? -INFINITY : (log2f(all) - minus[r]) * 0.6931471805599453f;
    }
  }
};

}  // namespace jax_na::cuda
