// Copies of tokens' rows from global to shared memory, by all threads of a CTA.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/tile/rows.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// One head of one batch entry of a tensor [tokens, heads, features].
template <typename T>
struct Source {
  const T* base;
  int64_t stride;  // elements from a token to the next
  int features;    // a multiple of 16 bytes

  // `heads` of the tensor, of which this is `head`, in batch entry `entry` of `tokens` each.
  __device__ static Source of(const void* tensor, int64_t entry, int64_t tokens, int heads,
                              int head, int features) {
    const int64_t stride = static_cast<int64_t>(heads) * features;
    return {static_cast<const T*>(tensor) + entry * tokens * stride +
                static_cast<int64_t>(head) * features,
            stride, features};
  }
};

// Starts the copy of one chunk of a row; what is not there becomes zeros.
template <typename T, int kHeadDim>
__device__ __forceinline__ void copy_chunk(const Source<T>& from, int64_t token, bool valid,
                                           uint32_t to, int row, int chunk) {
  using R = Rows<T, kHeadDim>;
  valid = valid && chunk * R::kPerChunk < from.features;
  const T* address = valid ? from.base + token * from.stride + chunk * R::kPerChunk : from.base;
  ptx::cp_async(to + R::chunk_offset(row, chunk), address, valid);
}

// Starts copies of the CTA's own `count` rows.
template <typename T, int kHeadDim>
__device__ void load_stationary(const RowWork* rows, int count, const Source<T>& from,
                                uint32_t to) {
  using R = Rows<T, kHeadDim>;
  for (int i = threadIdx.x; i < count * R::kChunks; i += blockDim.x) {
    const int row = i / R::kChunks, chunk = i % R::kChunks, token = rows[row].token;
    copy_chunk<T, kHeadDim>(from, token, token >= 0, to, row, chunk);
  }
}

// A stage's first position, on every axis.
struct StageOrigin {
  int at[kMaxRank];
};

// Calls `visit(row, chunk, token, valid)` for every chunk of a stage. Positions outside of what the
// CTA meets are not valid.
template <int kChunks, typename Visit>
__device__ __forceinline__ void for_each_chunk(const Sweep& sweep, const Work& work,
                                               const int (&counts)[kMaxRank],
                                               const StageOrigin& origin, Visit visit) {
  const int positions = sweep.stage[0] * sweep.stage[1] * sweep.stage[2];
  for (int i = threadIdx.x; i < positions * kChunks; i += blockDim.x) {
    int z = i / kChunks;
    const int chunk = i % kChunks;
    const int x = sweep.stage_x.split(z), y = sweep.stage_y.split(z);
    const int row = (z * sweep.stage[1] + y) * sweep.pitch + x;
    const int place[kMaxRank] = {z, y, x};
    bool valid = true;
    int64_t token = 0;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const AxisWork& axis = work.axis[a];
      const int position = origin.at[a] + place[a];
      valid = valid && position < axis.met.end;
      token = token * counts[a] + axis.streamed_token(position);
    }
    visit(row, chunk, token, valid);
  }
}

// Starts copies of a stage's rows from two tensors.
template <typename T, int kHeadDim>
__device__ void load_stage(const Sweep& sweep, const Work& work, const int (&counts)[kMaxRank],
                           const StageOrigin& origin, const Source<T>& first, uint32_t first_to,
                           const Source<T>& second, uint32_t second_to) {
  for_each_chunk<Rows<T, kHeadDim>::kChunks>(
      sweep, work, counts, origin, [&](int row, int chunk, int64_t token, bool valid) {
        copy_chunk<T, kHeadDim>(first, token, valid, first_to, row, chunk);
        copy_chunk<T, kHeadDim>(second, token, valid, second_to, row, chunk);
      });
}

// Starts copies of two scalars of every row of a stage: a float2 each at `to`.
__device__ inline void load_scalars(const Sweep& sweep, const Work& work,
                                    const int (&counts)[kMaxRank], const StageOrigin& origin,
                                    const float* first, const float* second, int64_t stride,
                                    uint32_t to) {
  for_each_chunk<1>(sweep, work, counts, origin, [&](int row, int, int64_t token, bool valid) {
    const int64_t at = valid ? token * stride : 0;
    ptx::cp_async_4(to + 8 * row, first + at, valid);
    ptx::cp_async_4(to + 8 * row + 4, second + at, valid);
  });
}

// Starts copies of `count` tokens from token `begin` on, to whole fragments of rows.
template <typename T, int kHeadDim>
__device__ void load_line(int begin, int count, const Source<T>& first, uint32_t first_to,
                          const Source<T>& second, uint32_t second_to) {
  using R = Rows<T, kHeadDim>;
  const int rows = (count + kRowsPerFragment - 1) / kRowsPerFragment * kRowsPerFragment;
  for (int i = threadIdx.x; i < rows * R::kChunks; i += blockDim.x) {
    const int row = i / R::kChunks, chunk = i % R::kChunks;
    copy_chunk<T, kHeadDim>(first, begin + row, row < count, first_to, row, chunk);
    copy_chunk<T, kHeadDim>(second, begin + row, row < count, second_to, row, chunk);
  }
}

}  // namespace jax_na::cuda
