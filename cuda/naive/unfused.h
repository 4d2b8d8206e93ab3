// The two halves of neighborhood attention, for those who need the weights in between, and their
// derivatives, which are the same few operations:
//
//   products    slots(query, key) = scale * rows(query) . rows(key) + bias
//   sums        rows(query) = scale * sum over keys of slots(query, key) * rows(key)
//   transposed  rows(key) = scale * sum over queries of slots(query, key) * rows(query)
//   bias_sums   bias = sum over queries of slots(query, key), by the distance of the key
//
// Scores and weights are [batch, tokens, heads, slots] in the order of cuda/naive/slots.h, in the
// type of the rows. Sums read no invisible slot; products fill them with a given value. Rows of
// queries are [batch, tokens, heads, head_dim], rows of keys [batch, tokens, kv_heads, head_dim],
// rows of additional tokens [batch, additional, kv_heads, head_dim]. Every axis is held whole.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/launch.h"

namespace jax_na::cuda {

struct Unfused {
  Problem problem;  // value_dim is not looked at
  Stored stored;
  double invisible;  // what products fill invisible slots with
  // What an operation does not read or write may be null.
  void* slots;
  void* query_rows;
  void* key_rows;
  void* additional_rows;
  void* bias;  // [bias_batch, heads, 2w-1 ...], float, or double for float64; of sums [batch, ..]
  void* workspace;  // of transposed and bias_sums, *_workspace(...) bytes, aligned to 256
};

// Each launches on `stream` without allocating or waiting, and returns an empty text or what is
// wrong.
std::string unfused_products(const Unfused& arguments, cudaStream_t stream);
std::string unfused_sums(const Unfused& arguments, cudaStream_t stream);
std::string unfused_transposed(const Unfused& arguments, cudaStream_t stream);
int64_t unfused_transposed_workspace(const Problem& problem, Stored stored);
std::string unfused_bias_sums(const Unfused& arguments, cudaStream_t stream);
int64_t unfused_bias_sums_workspace(const Problem& problem, Stored stored);

// Loads their kernels, so that no launch has to.
std::string load_unfused_kernels();

}  // namespace jax_na::cuda
