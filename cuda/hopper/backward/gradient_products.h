// Products of which the gradients of scores, or weights, are an operand in shared memory: rows of
// keys, each with the queries of a tile in a panel's 128 bytes.
#pragma once

#include <cstdint>

#include "cuda/hopper/shared.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {

// out = scores queries (+ out where `add` is not 0), of operands a and b: 64 keys by some features,
// over kSteps * 16 queries.
template <typename T, int kSteps, int kLineBytes, int kCount>
__device__ __forceinline__ void issue_over_queries(float (&out)[kCount], uint64_t a, uint64_t b,
                                                   int add) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
    ptx::wgmma_by_rows<T, 2 * kCount>(out, ptx::wgmma_advance(a, step * 32),
                                      ptx::wgmma_advance(b, step * 16 * kLineBytes),
                                      step > 0 ? 1 : add);
}

// sums = scores^T keys (+ sums where `add` is not 0): 64 queries by some features, over kSteps * 16
// keys.
template <typename T, int kSteps, int kLineBytes, int kCount>
__device__ __forceinline__ void issue_over_keys(float (&sums)[kCount], uint64_t a, uint64_t b,
                                                int add) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
    ptx::wgmma_by_depth<T, 2 * kCount>(sums, ptx::wgmma_advance(a, step * 16 * kPanelRowBytes),
                                       ptx::wgmma_advance(b, step * 16 * kLineBytes),
                                       step > 0 ? 1 : add);
}

}  // namespace jax_na::cuda
