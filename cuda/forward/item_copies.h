// Copies of an item's rows to shared memory, by all threads of a CTA, and where those rows begin.
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

// Starts a thread's copies of rows, one by one and without a branch: `token_of(row)` is a row's
// token, negative where its place becomes zeros.
template <typename T, int kHeadDim, int kSources, typename TokenOf>
__device__ __forceinline__ void copy_rows(int rows, const Source (&from)[kSources],
                                          const uint32_t (&to)[kSources], TokenOf token_of) {
  using R = Rows<T, kHeadDim>;
  static_assert(R::kChunks <= 32, "a warp copies whole rows");
  const int chunk = threadIdx.x % R::kChunks, step = blockDim.x / R::kChunks;
  const int begin = threadIdx.x / R::kChunks;
  if (32 % R::kChunks != 0 && begin >= step) return;  // threads that are too few for a row
  bool inside[kSources];
  const char* column[kSources];
#pragma unroll
  for (int i = 0; i < kSources; ++i) {
    inside[i] = chunk * R::kPerChunk < from[i].features;
    column[i] = ptx::opaque(from[i].base + 16 * chunk);
  }
  // What is not there is not read, wherever its address points.
#pragma unroll 4
  for (int row = begin; row < rows; row += step) {
    const int token = token_of(row);
    const uint32_t offset = R::chunk_offset(row, chunk);
    const uint64_t read = static_cast<uint32_t>(token);
#pragma unroll
    for (int i = 0; i < kSources; ++i)
      ptx::cp_async(to[i] + offset, column[i] + read * static_cast<uint32_t>(from[i].stride),
                    token >= 0 && inside[i]);
  }
}

// The same, two rows at a time, with one look at both tokens: fewer instructions, which the kernel
// for large windows, short of registers among its products, pays for with moves.
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
