// The rows that a group meets.
#pragma once

#include <cstdint>

#include "cuda/naive/box.h"
#include "cuda/naive/row.h"

namespace jax_na::cuda::naive {

// The rows of one head in a tensor [batch, tokens, heads, features].
template <typename F>
struct Source {
  using T = typename F::T;
  const T* base;
  int64_t stride;  // from token to token
  int size;        // features

  __device__ __forceinline__ static Source of(const void* tensor, int64_t entry, int64_t tokens,
                                              int heads, int head, int features) {
    return {static_cast<const T*>(tensor) + (entry * tokens * heads + head) * features,
            static_cast<int64_t>(heads) * features, features};
  }

  // The rows of a batch that are met; 0 for the others.
  __device__ __forceinline__ void load(const Groups& groups, const Batch& batch,
                                       Row<F> (&rows)[F::kBatch]) const {
    const T* from[F::kBatch];
    bool shown[F::kBatch];
#pragma unroll
    for (int i = 0; i < F::kBatch; ++i) {
      from[i] = base + batch.token(i) * stride;
      shown[i] = batch.shows(i);
    }
    load_rows(groups, from, shown, size, rows);
  }
};

// The inner products of a row with those of a batch, in all lanes.
template <typename F>
__device__ __forceinline__ void products(const Groups& groups, const Row<F>& own,
                                         const Row<F> (&met)[F::kBatch],
                                         typename F::R (&to)[F::kBatch]) {
#pragma unroll
  for (int i = 0; i < F::kBatch; ++i) to[i] = own.dot(met[i]);
  groups.sum(to);
}

// The weight of a score, both of base 2. It is 1 at most, whatever the rounding of large scores.
template <typename R>
__device__ __forceinline__ R weight_of(R score, R lse) {
  return score == -kInfinity<R> ? R(0) : exp2_of(score > lse ? R(0) : score - lse);
}

// The bias of one head of one batch entry; null where there is none.
template <typename R>
__device__ __forceinline__ const R* bias_of(const Problem& problem, const void* bias, int64_t entry,
                                            int head) {
  if (problem.bias_batch == 0) return nullptr;
  const int64_t which = problem.bias_batch == 1 ? 0 : entry;
  return static_cast<const R*>(bias) + (which * problem.heads + head) * problem.bias_size();
}

}  // namespace jax_na::cuda::naive
