// What consumers of the kernel for the gradient of the queries do with the scores of a tile. Rows
// are queries, columns keys.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/hopper/consumer.h"
#include "cuda/hopper/query_gradient/arguments.h"
#include "cuda/hopper/query_gradient/shared.h"
#include "cuda/ptx/math.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

// Log-sum-exps, in units of log2, and deltas of a lane's rows. Rows that there are not have no
// weights.
template <typename Shape>
__device__ __forceinline__ void fetch_statistics(const HopperQueryGradientArguments& arguments,
                                                 const HopperConsumer<Shape>& c,
                                                 const HopperItem& item, float (&lse)[2],
                                                 float (&delta)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int token[kMaxRank];
    const bool found = c.find_row(item, r, token);
    int64_t at = (static_cast<int64_t>(item.entry) * arguments.problem.heads + item.head) *
                 arguments.statistics_head;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) at += token[a] * arguments.statistics_steps[a];
    const float2 of_row = found ? arguments.statistics[at] : make_float2(INFINITY, 0.f);
    lse[r] = of_row.x;
    delta[r] = of_row.y;
  }
}

// cotangents = douts values^T, of the tile of values in `stage`.
template <typename Shape>
__device__ __forceinline__ void issue_cotangents(const HopperConsumer<Shape>& c, int buffer,
                                                 int stage,
                                                 float (&cotangents)[Shape::kBlock / 2]) {
  const uint32_t douts = c.queries(buffer) + Shape::kDoutAt - Shape::kQueryAt;
  ptx::wgmma_fence();
  issue_scores<Shape>(cotangents, douts, c.base + Shape::kValueAt + stage * Shape::kStageBytes);
  ptx::wgmma_commit();
}

// out = dscores keys (+ out where `begun`), of the tile of keys in `stage`.
template <typename Shape>
__device__ __forceinline__ void issue_sum(const HopperConsumer<Shape>& c,
                                          const uint32_t (&dscores)[Shape::kBlock / 16][4],
                                          int stage, bool begun,
                                          float (&out)[Shape::kHeadDim / 2]) {
  ptx::wgmma_fence();
  issue_combination<Shape>(out, dscores, c.base + Shape::kKeyAt + stage * Shape::kStageBytes,
                           begun);
  ptx::wgmma_commit();
}

// The weights of scores that hide what is not seen.
template <typename T, int kScores, int kSteps>
__device__ __forceinline__ void find_weights(const float (&scores)[kScores], float factor,
                                             const float (&lse)[2],
                                             uint32_t (&weights)[kSteps][4]) {
#pragma unroll
  for (int n = 0; n < kScores / 2; ++n) {
    const float* pair = scores + 2 * n;
    const int r = n % 2;
    weights[n / 4][n % 4] = pack(ptx::exp2(fmaf(pair[0], factor, -lse[r])),
                                 ptx::exp2(fmaf(pair[1], factor, -lse[r])), T());
  }
}

// The gradients of the scores, of their weights and of what the weights' cotangents are.
template <typename T, int kScores, int kSteps>
__device__ __forceinline__ void find_dscores(const float (&cotangents)[kScores],
                                             const float (&delta)[2],
                                             const uint32_t (&weights)[kSteps][4],
                                             uint32_t (&dscores)[kSteps][4]) {
#pragma unroll
  for (int n = 0; n < kScores / 2; ++n) {
    const float* pair = cotangents + 2 * n;
    const int r = n % 2;
    const float2 weight = unpack(weights[n / 4][n % 4], T());
    dscores[n / 4][n % 4] =
        pack(weight.x * (pair[0] - delta[r]), weight.y * (pair[1] - delta[r]), T());
  }
}

}  // namespace jax_na::cuda
