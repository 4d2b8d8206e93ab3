// The bias of a head.
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

}  // namespace jax_na::cuda
