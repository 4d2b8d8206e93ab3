// Copies of an item's rows to shared memory, where every thread finds out for itself where the item
// begins.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/opaque.h"
#include "cuda/tile/load.h"
#include "cuda/tile/rows.h"

namespace jax_na::cuda {

// Rows of an item's tensors, before its first token's.
struct ItemRows {
  uint32_t query, key;

  __device__ __forceinline__ ItemRows(const Sweep& sweep, int entry) {
    int head = sweep.heads.split(entry);
    query = entry * sweep.query_rows + head;
    sweep.head_group.split(head);
    key = entry * sweep.key_rows + head;
  }
};

// Starts a thread's copies of rows, two rows at a time and without branches between them:
// `token_of(row)` is the token of a row, negative where its place becomes zeros.
template <typename T, int kHeadDim, int kSources, typename TokenOf>
__device__ __forceinline__ void copy_pairs(int rows, const Source (&from)[kSources],
                                           const uint32_t (&to)[kSources], TokenOf token_of) {
  using R = Rows<T, kHeadDim>;
  static_assert(R::kChunks <= 8, "two steps are a multiple of eight rows");
  const int chunk = threadIdx.x % R::kChunks, step = blockDim.x / R::kChunks;
  const int begin = threadIdx.x / R::kChunks;
  const char* column[kSources];
  uint32_t place[kSources];
#pragma unroll
  for (int i = 0; i < kSources; ++i) {
    column[i] = ptx::opaque(from[i].base + 16 * chunk);
    place[i] = to[i] + R::chunk_offset(begin, chunk);
  }
  auto copy = [&](bool wanted, uint32_t shift, int token) {
#pragma unroll
    for (int i = 0; i < kSources; ++i) {
      // What is not there is not read, wherever its address points.
      const bool there = token >= 0 && chunk * R::kPerChunk < from[i].features;
      ptx::cp_async_if(wanted, place[i] + shift,
                       ptx::advance(column[i], static_cast<uint32_t>(token),
                                    static_cast<uint32_t>(from[i].stride)),
                       there);
    }
  };
  const uint32_t behind = R::chunk_offset(begin + step, chunk) - R::chunk_offset(begin, chunk);
  uint32_t shift = 0;
#pragma unroll 1
  for (int row = begin; row < rows; row += 2 * step) {
    const bool two = row + step < rows;
    const int first = token_of(row), second = two ? token_of(row + step) : 0;
    copy(true, shift, first);
    copy(two, shift + behind, second);
    shift += 2 * step * R::kBytes;
  }
}

}  // namespace jax_na::cuda
