// Copies of tokens' rows from global to shared memory, by all threads of a CTA.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/opaque.h"
#include "cuda/tile/rows.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// What stands in a table of tokens for a row that is none.
constexpr int kZeros = -1;  // it is met, and has to be zero
constexpr int kUnmet = -2;  // it is never met

// One head of one batch entry of a tensor [tokens, heads, features].
struct Source {
  const char* base;
  int stride;    // bytes from a token to the next
  int features;  // a multiple of 16 bytes
};

// The same of a tensor of T from element `offset` on.
template <typename T>
__device__ __forceinline__ Source source(const void* tensor, int64_t offset, int heads,
                                         int features) {
  return {static_cast<const char*>(tensor) + offset * static_cast<int64_t>(sizeof(T)),
          heads * features * static_cast<int>(sizeof(T)), features};
}

// Starts copies of rows: `token_of(row)` is the token of a row, kZeros or kUnmet.
template <typename T, int kHeadDim, int kSources, typename TokenOf>
__device__ __forceinline__ void load_rows(int rows, const Source (&from)[kSources],
                                          const uint32_t (&to)[kSources], TokenOf token_of) {
  using R = Rows<T, kHeadDim>;
  constexpr int kLanes = R::kChunks < 32 ? R::kChunks : 32;  // threads that copy a row together
  const int side_by_side = blockDim.x / kLanes, begin = threadIdx.x / kLanes;
  if (begin >= side_by_side) return;
#pragma unroll
  for (int piece = 0; piece < R::kChunks / kLanes; ++piece) {
    const int chunk = piece * kLanes + threadIdx.x % kLanes;
    const char* column[kSources];
    bool inside[kSources];
#pragma unroll
    for (int i = 0; i < kSources; ++i) {
      inside[i] = chunk * R::kPerChunk < from[i].features;
      column[i] = ptx::opaque(from[i].base + (inside[i] ? 16 * chunk : 0));
    }
    const uint32_t first = R::chunk_offset(begin, chunk);
    for (int row = begin; row < rows; row += side_by_side) {
      const int token = token_of(row);
      if (token == kUnmet) continue;
      // A warp's rows, where they are eight or a multiple, are swizzled alike.
      const uint32_t offset =
          32 / kLanes % 8 == 0 ? first + (row - begin) * R::kBytes : R::chunk_offset(row, chunk);
#pragma unroll
      for (int i = 0; i < kSources; ++i)
        ptx::cp_async(to[i] + offset,
                      ptx::advance(column[i], static_cast<uint32_t>(max(token, 0)),
                                   static_cast<uint32_t>(from[i].stride)),
                      token >= 0 && inside[i]);
    }
  }
}

// Fills the places of a stage's rows, which depend on the plan alone. Every thread calls it.
__device__ inline void find_places(const Sweep& sweep, Place* places) {
  for (int row = threadIdx.x; row < sweep.stage_rows; row += blockDim.x) {
    int z = row;
    const int x = sweep.pitch_x.split(z), y = sweep.stage_y.split(z);
    const bool met = z < sweep.stage[0] && x < sweep.stage[2];
    places[row] = {{static_cast<uint16_t>(z), static_cast<uint16_t>(y), static_cast<uint16_t>(x)},
                   met};
  }
}

// Each axis's share of the tokens of the stage at `origin`, negative where there is none: one axis
// after the other. `counts` are the axes of the streamed tensor. A warp calls it.
__device__ inline void find_shares(const Sweep& sweep, const Work& work,
                                   const int (&counts)[kMaxRank], const int (&origin)[kMaxRank],
                                   int* shares) {
  for (int i = ptx::lane(); i < sweep.stage_extents; i += 32) {
    const int axis = i < sweep.stage[0] ? 0 : i < sweep.stage[0] + sweep.stage[1] ? 1 : 2;
    const int before = axis == 0 ? 0 : axis == 1 ? sweep.stage[0] : sweep.stage[0] + sweep.stage[1];
    const int position = origin[axis] + i - before;
    const AxisWork& at = work.axis[axis];
    const int stride = axis == 2 ? 1 : axis == 1 ? counts[2] : counts[2] * counts[1];
    shares[i] = position < at.met.end ? at.streamed_token(position) * stride : INT32_MIN;
  }
}

// Writes the token of every row of a stage, a box or a line from token `begin` on.
__device__ __forceinline__ void find_tokens(const Sweep& sweep, const Place* places,
                                            const int* shares, int line, int begin, int* tokens) {
  for (int row = threadIdx.x; row < sweep.stage_rows; row += blockDim.x) {
    int token = row < line ? begin + row : kZeros;
    if (line == 0) {
      const Place place = places[row];
      token = kUnmet;
      if (place.met) {
        const int z = shares[place.at[0]], y = shares[sweep.stage[0] + place.at[1]];
        const int x = shares[sweep.stage[0] + sweep.stage[1] + place.at[2]];
        token = (z | y | x) < 0 ? kZeros : z + y + x;
      }
    }
    tokens[row] = token;
  }
}

// Starts copies of two scalars of every row of a stage: a float2 each at `to`.
__device__ __forceinline__ void load_scalars(const int* tokens, int rows, const float* first,
                                             const float* second, int64_t stride, uint32_t to) {
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    const int token = tokens[row];
    const int64_t at = token >= 0 ? token * stride : 0;
    ptx::cp_async_4(to + 8 * row, first + at, token >= 0);
    ptx::cp_async_4(to + 8 * row + 4, second + at, token >= 0);
  }
}

}  // namespace jax_na::cuda
