// Results of a fragment's 16 rows from registers to global memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/problem.h"
#include "cuda/ptx/global_words.h"
#include "cuda/ptx/shared_words.h"
#include "cuda/tile/element.h"
#include "cuda/tile/rows.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Scales the rows (g by factors[0], g + 8 by factors[1]) and writes `features` of each to
// to[token * stride ..], through 16 rows of shared memory at `staging` that belong to the warp, so
// that every write is of 16 bytes.
template <typename T, int kHeadDim>
__device__ __forceinline__ void store_rows(const float (&values)[kHeadDim / 8][4],
                                           const float (&factors)[2], uint32_t staging,
                                           const RowWork* rows, T* to, int stride, int features,
                                           int lane) {
  using R = Rows<T, kHeadDim>;
  const int g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float low = values[j][2 * r] * factors[r], high = values[j][2 * r + 1] * factors[r];
      const int row = g + 8 * r;
      if constexpr (std::is_same_v<T, float>) {
        const uint32_t at = staging + R::chunk_offset(row, 2 * j + t / 2) + 8 * (t % 2);
        ptx::store_shared(at, __float_as_uint(low), __float_as_uint(high));
      } else {
        ptx::store_shared(staging + R::chunk_offset(row, j) + 4 * t, pack(low, high, T()));
      }
    }
  }
  __syncwarp();
  for (int i = lane; i < 16 * R::kChunks; i += 32) {
    const int row = i / R::kChunks, chunk = i % R::kChunks, token = rows[row].token;
    if (token >= 0 && chunk * R::kPerChunk < features) {
      const uint64_t at = uint64_t{static_cast<uint32_t>(token)} * static_cast<uint32_t>(stride);
      ptx::store_global_16(to + at + chunk * R::kPerChunk,
                           ptx::load_shared_16(staging + R::chunk_offset(row, chunk)));
    }
  }
}

// Writes what is left of a warp's fragments where their items end: the log-sum-exps of rows, which
// `finish(m, inverse, lse)` finds with the factors that normalise results; `store(m, inverse)`
// writes those. `lses` is where that of the first token would be.
template <int kRowTiles, typename Finish, typename Store>
__device__ __forceinline__ void store_results(const Problem& problem, const RowWork* rows,
                                              float* lses, int lane, Finish finish, Store store) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    float inverse[2], lse[2];
    finish(m, inverse, lse);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = rows[16 * m + 8 * r + lane / 4].token;
      if (lane % 4 == 0 && token >= 0) lses[static_cast<int64_t>(token) * problem.heads] = lse[r];
    }
    store(m, inverse);
  }
}

}  // namespace jax_na::cuda
