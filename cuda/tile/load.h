// Copies of tokens' rows from global to shared memory, by all threads of a CTA.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/tile/rows.h"
#include "cuda/tile/walk.h"
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

// Starts copies of rows: `token_of(row)` is the token of a row, kZeros or kUnmet.
template <typename T, int kHeadDim, int kSources, typename TokenOf>
__device__ __forceinline__ void load_rows(int rows, const Source (&from)[kSources],
                                          const uint32_t (&to)[kSources], TokenOf token_of) {
  using R = Rows<T, kHeadDim>;
  const int side_by_side = blockDim.x / R::kChunks, chunk = threadIdx.x % R::kChunks;
  const int begin = threadIdx.x / R::kChunks;
  if (begin >= side_by_side) return;
  for (int row = begin; row < rows; row += side_by_side) {
    const int token = token_of(row);
    if (token == kUnmet) continue;
    const uint32_t offset = R::chunk_offset(row, chunk);
#pragma unroll
    for (int i = 0; i < kSources; ++i) {
      const bool valid = token >= 0 && chunk * R::kPerChunk < from[i].features;
      const char* address =
          from[i].base + (valid ? static_cast<int64_t>(token) * from[i].stride + 16 * chunk : 0);
      ptx::cp_async(to[i] + offset, address, valid);
    }
  }
}

// Writes the token of every row of a stage: of a box at `origin`, or of a line of `line` tokens
// from `begin` on.
__device__ inline void find_tokens(const Sweep& sweep, const Work& work,
                                   const int (&counts)[kMaxRank], const StageOrigin& origin,
                                   int line, int begin, int* tokens) {
  for (int row = threadIdx.x; row < sweep.stage_rows(); row += blockDim.x) {
    int token = row < line ? begin + row : kZeros;
    if (line == 0) {
      int z = row;
      const int x = sweep.pitch_x.split(z), y = sweep.stage_y.split(z);
      const int place[kMaxRank] = {z, y, x};
      bool valid = true, met = true;
      token = 0;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        const AxisWork& axis = work.axis[a];
        const int position = origin.at[a] + place[a];
        met = met && place[a] < sweep.stage[a];
        valid = valid && position < axis.met.end;
        token = token * counts[a] + axis.streamed_token(position);
      }
      token = !met ? kUnmet : valid ? token : kZeros;
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
