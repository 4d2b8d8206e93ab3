// The softmax of a warp's rows whose scores are all there at once, in registers.
#pragma once

#include <cmath>

#include "cuda/ptx/math.h"
#include "cuda/tile/softmax.h"

namespace jax_na::cuda {

// Scores of a warp's 16 rows become weights, of which each lane has the sums of its columns. Of a
// narrow tile the last 8 columns are nobody's.
template <int kTiles>
__device__ __forceinline__ RunningSoftmax weigh(float (&scores)[kTiles][4], float factor,
                                                bool narrow) {
  constexpr int kLast = kTiles - 1;
  // Two chains of each operation, for its latency.
  float highest[2][2], total[2][2] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float& most = highest[i / 2][i % 2];
    most = scores[0][i];
#pragma unroll
    for (int n = 1; n < kLast; ++n) most = fmaxf(most, scores[n][i]);
  }
  if (!narrow) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      highest[i / 2][i % 2] = fmaxf(highest[i / 2][i % 2], scores[kLast][i]);
  }
  RunningSoftmax softmax;
  float reference[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float maximum = fmaxf(highest[r][0], highest[r][1]);
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
    reference[r] = maximum == -INFINITY ? 0.f : __fmul_rn(maximum, factor);
    softmax.maximum[r] = maximum;
  }
  auto weigh = [&](float& weight, int i) {
    weight = ptx::exp2(fmaf(weight, factor, -reference[i / 2]));
    total[i / 2][i % 2] += weight;
  };
  if (narrow) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[kLast][i] = 0.f;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) weigh(scores[kLast][i], i);
  }
#pragma unroll
  for (int n = 0; n < kLast; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) weigh(scores[n][i], i);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) softmax.sum[r] = total[r][0] + total[r][1];
  return softmax;
}

}  // namespace jax_na::cuda
