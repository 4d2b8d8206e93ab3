// The naive implementation: a few lanes of a warp to each query and head, or key and head.
//
// It is the plain baseline that the fused kernels are measured against, and what runs what they do
// not: float64 and numbers of features that are no multiple of 8. Keys and values are read through
// the caches, row by row, by coalesced loads; nothing is tiled. Softmax is online, in registers. No
// two groups add to the same number, other than through parts that a last kernel adds up in order:
// every result is bitwise the same from run to run.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/launch.h"

namespace jax_na::cuda {

// Each launches on `stream` without allocating or waiting, and returns an empty text or what is
// wrong. `precision` is not looked at: products are exact in float32 at least.
std::string naive_forward(const Forward& arguments, cudaStream_t stream);
std::string naive_backward(const Backward& arguments, cudaStream_t stream);
int64_t naive_backward_workspace(const Problem& problem, Stored stored);  // bytes

// Loads the kernels of naive_forward and naive_backward, so that no launch has to.
std::string load_naive_kernels();

}  // namespace jax_na::cuda
