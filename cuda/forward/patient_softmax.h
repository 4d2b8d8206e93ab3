// The online softmax of a warp's rows that seldom corrects what it summed before, and makes weights
// of a few scores at a time.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "cuda/ptx/math.h"
#include "cuda/tile/element.h"
#include "cuda/tile/softmax.h"

namespace jax_na::cuda {

// The two rows of a fragment that a lane holds a part of: g and g + 8. Weights are exp2(factor *
// score + minus), where `minus`, the same in the four lanes of a row, moves, and earlier sums
// shrink, only when some row of the warp has outgrown its own by a factor of 2^kSlack. Until then
// weights are below that, which changes no rounding, since what they are summed in and divided by
// has the same factor.
struct PatientSoftmax {
  static constexpr float kSlack = 8.f;
  static constexpr float kUnmet = FLT_MAX;  // of a row that has met nothing yet: any score outgrows

  float minus[2] = {kUnmet, kUnmet};
  float sum[2] = {0.f, 0.f};  // of the lane's own columns

  // The highest of a lane's scores of each row; true where one of them has outgrown its row.
  // `factor` is positive.
  template <int kTiles>
  __device__ __forceinline__ bool outgrown(const float (&scores)[kTiles][4], float factor,
                                           float (&highest)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      highest[r] = fmaxf(scores[0][2 * r], scores[0][2 * r + 1]);
#pragma unroll
      for (int n = 1; n < kTiles; ++n)
        highest[r] = fmaxf(highest[r], fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
    }
    return fmaf(highest[0], factor, minus[0]) > kSlack ||
           fmaf(highest[1], factor, minus[1]) > kSlack;
  }

  // Moves the references; results are to be multiplied by `shrink`, as earlier sums are. All lanes
  // of a warp call it.
  __device__ __forceinline__ void move(float (&highest)[2], float factor, float (&shrink)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      highest[r] = fmaxf(highest[r], __shfl_xor_sync(~0u, highest[r], 1));
      highest[r] = fmaxf(highest[r], __shfl_xor_sync(~0u, highest[r], 2));
      const float next = highest[r] == -INFINITY ? minus[r] : fminf(minus[r], -highest[r] * factor);
      shrink[r] = ptx::exp2(next - minus[r]);
      sum[r] *= shrink[r];
      minus[r] = next;
    }
  }

  // Two weights as a word of T, of the scores of row `r` among `scores`.
  template <typename T>
  __device__ __forceinline__ uint32_t weigh(const float (&scores)[4], int r, float factor) {
    const float even = ptx::exp2(fmaf(scores[2 * r], factor, minus[r]));
    const float odd = ptx::exp2(fmaf(scores[2 * r + 1], factor, minus[r]));
    sum[r] += even + odd;
    return pack(even, odd, T());
  }

  // Sums over the lanes of a row: the factors that normalise it, and its log-sum-exp.
  __device__ __forceinline__ void finish(float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      inverse[r] = sum[r] == 0.f ? 0.f : 1.f / sum[r];
      lse[r] = sum[r] == 0.f ? -INFINITY : (ptx::log2(sum[r]) - minus[r]) * kLn2;
    }
  }
};

}  // namespace jax_na::cuda
