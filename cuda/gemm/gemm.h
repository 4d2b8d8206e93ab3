// Neighborhood attention as matrix products with window-shaped results and operands, in the manner
// of "Faster Neighborhood Attention" (NeurIPS 2024): the scores and the weights of all windows are
// tensors [batch, query tokens, heads, slots] in memory, and three kinds of product go between them
// and the token-shaped tensors.
//
//   scores:   queries times keys, scattered to slots; also the cotangents of weights
//   combine:  weights, gathered from slots, times values; also the gradient of queries
//   inverse:  transposed weights, gathered likewise, times what queries hold: the gradients of keys
//             and values
//
// Slots are the positions of the window, the last axis fastest, then the additional tokens. A slot
// whose key is invisible is neither written nor read.
#pragma once

#include <cstdint>
#include <string>

#include "core/problem.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// The slots of a row. They number more than 2^31 in no problem that runs.
JAX_NA_INLINE int64_t window_slots(const Problem& problem) {
  int64_t slots = 1;
  for (const Axis& axis : problem.axes) slots *= axis.window;
  return slots;
}
JAX_NA_INLINE int64_t slots_of(const Problem& problem) {
  return window_slots(problem) + problem.additional;
}

// scores = problem.scale * query key^T + bias. Both sides have problem.head_dim features.
struct Scores {
  Problem problem;
  const void* query;
  const void* key;
  const void* additional_keys;
  const void* bias;
  const int32_t* origins;
  float* scores;  // [batch, tokens, heads, slots]
};

// result = factor * (weights from). Both sides have problem.value_dim features. Combining, `from`
// are values and the result has the queries' tokens; inversely, `from` has the queries' tokens and
// the result those of the values, whose heads each sum over the query heads that share them.
struct Combination {
  Problem problem;
  const void* weights;
  int64_t pitch;  // elements from one row of weights to the next
  const void* from;
  const void* additional;  // tokens that follow `from`'s; combining alone
  const int32_t* origins;
  float factor;
  void* result;
};

// The workspaces hold the window-shaped tensors, and are aligned to 256 bytes. Each function
// launches on `stream` without allocating or waiting, and returns an empty text or what is wrong.
int64_t gemm_forward_workspace(const Problem& problem);
int64_t gemm_backward_workspace(const Problem& problem, Stored stored);
std::string gemm_forward(const Forward& arguments, void* workspace, cudaStream_t stream);
std::string gemm_backward(const Backward& arguments, cudaStream_t stream);

// Loads the kernels of this folder, so that no launch has to.
std::string load_gemm_kernels();

}  // namespace jax_na::cuda
