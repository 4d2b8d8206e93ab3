// The online softmax of a warp's rows, in registers.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/ptx/math.h"

namespace jax_na::cuda {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// The two rows of a fragment that a lane holds a part of: g and g + 8. The four lanes of a row hold
// the same maximum, and each the sum of its own columns.
struct RunningSoftmax {
  float maximum[2] = {-INFINITY, -INFINITY};  // of the scores
  float sum[2] = {0.f, 0.f};                  // of exp2(factor * (score - maximum))

  // Replaces the scores of `kTiles` 8-column tiles by their weights, of which the first `chunks`
  // pairs are in use, and returns by how much earlier sums shrink. `factor` is positive.
  template <int kTiles>
  __device__ __forceinline__ void step(float (&scores)[kTiles][4], int chunks, float factor,
                                       float (&shrink)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float highest = maximum[r];
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        if (n / 2 < chunks) highest = fmaxf(highest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
      // While no column is visible all scores are -inf, and no number may be made of their
      // difference.
      const float reference = highest == -INFINITY ? 0.f : __fmul_rn(highest, factor);
      shrink[r] = ptx::exp2(__fmul_rn(maximum[r], factor) - reference);
      float total = 0.f;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        if (n / 2 < chunks) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = scores[n][2 * r + e];
            weight = ptx::exp2(fmaf(weight, factor, -reference));
            total += weight;
          }
        }
      }
      sum[r] = sum[r] * shrink[r] + total;
      maximum[r] = highest;
    }
  }

  // Sums over the lanes of a row: the factors that normalise both, and the log-sum-exp of the first
  // row where `second` is even, else of the second one, all to a few ulp.
  __device__ __forceinline__ float finish_rows(float factor, float (&inverse)[2], int second) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      inverse[r] = sum[r] == 0.f ? 0.f : ptx::reciprocal(sum[r]);
    }
    const float total = second % 2 == 0 ? sum[0] : sum[1];
    const float highest = second % 2 == 0 ? maximum[0] : maximum[1];
    return total == 0.f ? -INFINITY : (highest * factor + ptx::log2(total)) * kLn2;
  }

  // Sums over the lanes of a row: the factors that normalise it, and its log-sum-exp.
  __device__ __forceinline__ void finish(float factor, float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      inverse[r] = sum[r] == 0.f ? 0.f : 1.f / sum[r];
      lse[r] = sum[r] == 0.f ? -INFINITY : (maximum[r] * factor + log2f(sum[r])) * kLn2;
    }
  }
};

}  // namespace jax_na::cuda
