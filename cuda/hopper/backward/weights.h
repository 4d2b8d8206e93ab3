// What becomes of the scores of a tile: weights, and with the cotangents of weights the gradients
// of the scores. Rows are keys, columns queries.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/mask.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/stmatrix.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

// Columns 8n + 2t and 8n + 2t + 1 of a statistic.
__device__ __forceinline__ float2 statistic_at(const float* of, int n) {
  return *reinterpret_cast<const float2*>(of + 8 * n);
}

// What a lane's two rows of a warpgroup see of a tile.
template <typename Control>
__device__ __forceinline__ void look_up_seen(const Control& control, const RowMask& mask,
                                             uint32_t (&seen)[2]) {
  const int lane = ptx::lane(), row = ptx::thread() % 128 / 32 * 16 + lane / 4;
  const auto* words = reinterpret_cast<const unsigned char*>(mask.word) + 4 * (lane % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint32_t at = control.row_words[mask.table][row + 8 * r];
    seen[r] = *reinterpret_cast<const uint32_t*>(words + at % 65536) &
              *reinterpret_cast<const uint32_t*>(words + at / 65536);
  }
}

// The weights of the keys of a group of rows for queries of the tile in `stage`, from `first` on.
template <typename Shape, int kScores, int kSteps>
__device__ __forceinline__ void find_weights(const HopperBackwardArguments& arguments,
                                             const HopperBackwardControl<Shape>& control, int stage,
                                             int group, int first, float (&scores)[kScores],
                                             uint32_t (&weights)[kSteps][4]) {
  using T = typename Shape::Element;
  const RowMask& mask = control.masks[stage][group];
  if (arguments.scale_first) {
#pragma unroll
    for (float& score : scores) score *= arguments.score_scale;
  }
  if (mask.seen != TileMask::kEverything) {
    uint32_t seen[2];
    look_up_seen(control, mask, seen);
    seen[0] >>= first / 4, seen[1] >>= first / 4;
    hide_columns(scores, seen);
  }
  const float* lses = control.lse[stage] + first + 2 * (ptx::lane() % 4);
#pragma unroll
  for (int n = 0; n < kScores / 4; ++n) {
    const float2 lse = statistic_at(lses, n);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float* pair = scores + 4 * n + 2 * r;
      weights[n / 2][2 * (n % 2) + r] =
          pack(ptx::exp2(fmaf(pair[0], arguments.weight_factor, -lse.x)),
               ptx::exp2(fmaf(pair[1], arguments.weight_factor, -lse.y)), T());
    }
  }
}

// What a lane needs of a tile beside scores, where there are registers for it while they are waited
// for.
template <int kScores>
struct TileView {
  float2 lse[kScores / 4];
  uint32_t seen[2];
  bool everything;  // is seen

  template <typename Shape>
  __device__ __forceinline__ TileView(const HopperBackwardControl<Shape>& control, int stage,
                                      int group) {
    const RowMask& mask = control.masks[stage][group];
    everything = mask.seen == TileMask::kEverything;
    if (!everything) look_up_seen(control, mask, seen);
    const float* lses = control.lse[stage] + 2 * (ptx::lane() % 4);
#pragma unroll
    for (int n = 0; n < kScores / 4; ++n) lse[n] = statistic_at(lses, n);
  }

  template <typename T, int kSteps>
  __device__ __forceinline__ void weigh(const HopperBackwardArguments& arguments,
                                        float (&scores)[kScores],
                                        uint32_t (&weights)[kSteps][4]) const {
    if (arguments.scale_first) {
#pragma unroll
      for (float& score : scores) score *= arguments.score_scale;
    }
    if (!everything) hide_columns(scores, seen);
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) {
      const int n = i / 2;
      weights[n / 2][2 * (n % 2) + i % 2] =
          pack(ptx::exp2(fmaf(scores[2 * i], arguments.weight_factor, -lse[n].x)),
               ptx::exp2(fmaf(scores[2 * i + 1], arguments.weight_factor, -lse[n].y)), T());
    }
  }
};

// The gradients of the scores of 16 queries, one step of a product, of the weights and of what the
// weights' cotangents are: those `from` on.
template <typename T, int kScores>
__device__ __forceinline__ void find_dscores(const float* deltas, int step,
                                             const float (&cotangents)[kScores], int from,
                                             const uint32_t (&weights)[4], uint32_t (&dscores)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 delta = statistic_at(deltas, 2 * step + i / 2);
    const float* pair = cotangents + from + 2 * i;
    const float2 weight = unpack(weights[i], T());
    dscores[i] = pack(weight.x * (pair[0] - delta.x), weight.y * (pair[1] - delta.y), T());
  }
}

// Writes a warpgroup's rows of the gradients of scores to `to`, as operands of products: of as many
// steps as there are cotangents of, from kFirst on.
template <int kFirst, typename Shape, int kScores, int kSteps>
__device__ __forceinline__ void stage_dscores(const HopperBackwardControl<Shape>& control,
                                              int stage, const float (&cotangents)[kScores],
                                              const uint32_t (&weights)[kSteps][4], uint32_t to) {
  const int lane = ptx::lane(), row = ptx::thread() % 128 / 32 * 16 + lane % 16;
  const float* deltas = control.delta[stage] + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < kScores / 8; ++i) {
    const int step = kFirst + i;
    uint32_t dscores[4];
    find_dscores<typename Shape::Element>(deltas, step, cotangents, 8 * i, weights[step], dscores);
    ptx::stmatrix(to + row * kPanelRowBytes + ((2 * step + lane / 16) ^ (row & 7)) * 16, dscores);
  }
}

}  // namespace jax_na::cuda
