// What becomes of the scores of a tile: weights, and with the cotangents of weights the gradients
// of the scores. Rows are keys, columns queries.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/lane_places.h"
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

// The statistics of a lane's columns.
template <int kCount>
__device__ __forceinline__ void read_statistics(const float* of, const LanePlaces& places,
                                                float2 (&to)[kCount]) {
  const float* own = of + places.statistic / sizeof(float);
#pragma unroll
  for (int n = 0; n < kCount; ++n) to[n] = statistic_at(own, n);
}

// Where the words of a lane's two rows are in the masks of an item, in bytes: those of their lines
// in the lower halves, those of their places in the upper ones.
struct RowWords {
  uint32_t at[2];

  template <typename Control>
  __device__ __forceinline__ RowWords(const Control& control, int slot, const LanePlaces& places) {
    const int table = control.additional[slot] < 0 ? 0 : 1;
    const uint32_t t = places.statistic / 2;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      at[r] = control.row_words[table][places.row + 8 * r] + (t | t << 16);
  }
};

// What a lane's two rows of a warpgroup see of a tile. All is read at once, whatever the tile is:
// what is read from shared memory while products read their operands takes long, and would take
// several times as long if each waited for the one before.
struct RowsSeen {
  uint32_t columns[2];
  bool everything;

  __device__ __forceinline__ RowsSeen(const RowMask& mask, const RowWords& words) {
    everything = mask.seen == TileMask::kEverything;
    const auto* first = reinterpret_cast<const unsigned char*>(mask.word);
#pragma unroll
    for (int r = 0; r < 2; ++r)
      columns[r] = *reinterpret_cast<const uint32_t*>(first + words.at[r] % 65536) &
                   *reinterpret_cast<const uint32_t*>(first + words.at[r] / 65536);
  }
};

// The weights of a lane's keys for queries of the tile in `stage`, from `first` on.
template <typename Shape, int kScores, int kSteps>
__device__ __forceinline__ void find_weights(const HopperBackwardArguments& arguments,
                                             const HopperBackwardControl<Shape>& control, int stage,
                                             const RowsSeen& rows, int first,
                                             float (&scores)[kScores],
                                             uint32_t (&weights)[kSteps][4],
                                             const LanePlaces& places) {
  using T = typename Shape::Element;
  if (arguments.scale_first) {
#pragma unroll
    for (float& score : scores) score *= arguments.score_scale;
  }
  if (!rows.everything) {
    const uint32_t seen[2] = {rows.columns[0] >> first / 4, rows.columns[1] >> first / 4};
    hide_columns(scores, seen);
  }
  const float* lses = control.lse[stage] + first + places.statistic / sizeof(float);
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
  RowsSeen rows;
  float2 lse[kScores / 4];

  template <typename Shape>
  __device__ __forceinline__ TileView(const HopperBackwardControl<Shape>& control, int stage,
                                      int group, const RowWords& words, const LanePlaces& places)
      : rows(control.masks[stage][group], words) {
    read_statistics(control.lse[stage], places, lse);
  }

  template <typename T, int kSteps>
  __device__ __forceinline__ void weigh(const HopperBackwardArguments& arguments,
                                        float (&scores)[kScores],
                                        uint32_t (&weights)[kSteps][4]) const {
    if (arguments.scale_first) {
#pragma unroll
      for (float& score : scores) score *= arguments.score_scale;
    }
    if (!rows.everything) hide_columns(scores, rows.columns);
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) {
      const int n = i / 2;
      weights[n / 2][2 * (n % 2) + i % 2] =
          pack(ptx::exp2(fmaf(scores[2 * i], arguments.weight_factor, -lse[n].x)),
               ptx::exp2(fmaf(scores[2 * i + 1], arguments.weight_factor, -lse[n].y)), T());
    }
  }
};

// The gradients of the scores of 16 queries, one step of a product, of their deltas, the weights,
// and what the weights' cotangents are: those `from` on.
template <typename T, int kScores>
__device__ __forceinline__ void find_dscores(const float2 (&deltas)[2],
                                             const float (&cotangents)[kScores], int from,
                                             const uint32_t (&weights)[4], uint32_t (&dscores)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 delta = deltas[i / 2];
    const float* pair = cotangents + from + 2 * i;
    const float2 weight = unpack(weights[i], T());
    dscores[i] = pack(weight.x * (pair[0] - delta.x), weight.y * (pair[1] - delta.y), T());
  }
}

// The same with deltas in memory, those of this lane's columns.
template <typename T, int kScores>
__device__ __forceinline__ void find_dscores(const float* deltas, int step,
                                             const float (&cotangents)[kScores], int from,
                                             const uint32_t (&weights)[4], uint32_t (&dscores)[4]) {
  const float2 both[2] = {statistic_at(deltas, 2 * step), statistic_at(deltas, 2 * step + 1)};
  find_dscores<T>(both, cotangents, from, weights, dscores);
}

// Writes a warpgroup's rows of the gradients of scores to `to`, as operands of products: of as many
// steps as there are deltas and cotangents of, from kFirst on. Deltas are read before: nothing is
// read from memory between two writes to it.
template <typename T, int kFirst, int kScores, int kSteps>
__device__ __forceinline__ void stage_dscores(const float2 (&deltas)[kScores / 4],
                                              const float (&cotangents)[kScores],
                                              const uint32_t (&weights)[kSteps][4], uint32_t to,
                                              const LanePlaces& places) {
#pragma unroll
  for (int i = 0; i < kScores / 8; ++i) {
    const int step = kFirst + i;
    const float2 both[2] = {deltas[2 * i], deltas[2 * i + 1]};
    uint32_t dscores[4];
    find_dscores<T>(both, cotangents, 8 * i, weights[step], dscores);
    ptx::stmatrix(to + places.dscores_of(step), dscores);
  }
}

}  // namespace jax_na::cuda
