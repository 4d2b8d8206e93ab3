// The head and batch entry of a CTA, and where its tensors lie.
#pragma once

#include <cstdint>

#include "core/problem.h"

namespace jax_na::cuda {

// The bias of one head of one batch entry; null where there is none.
__device__ __forceinline__ const float* bias_of(const Problem& problem, const void* bias,
                                                int64_t entry, int head) {
  if (problem.bias_batch == 0) return nullptr;
  const int64_t which = problem.bias_batch == 1 ? 0 : entry;
  return static_cast<const float*>(bias) + (which * problem.heads + head) * problem.bias_size();
}

// Tensor elements before those of a head's first token, in a tensor [batch, tokens, heads,
// features].
__device__ __forceinline__ int64_t offset_of(int64_t entry, int64_t tokens, int heads, int head,
                                             int features) {
  return (entry * tokens * heads + head) * features;
}

}  // namespace jax_na::cuda
