// What the handlers see of the CPU kernels: arguments, and one table of functions per instruction
// set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/plan.h"
#include "core/problem.h"
#include "core/stored.h"

namespace jax_na {

// Tensors in the layouts of Problem. Bias, LSE and everything named a partial sum is of the compute
// type: double for float64 tensors, float for all others.
struct ForwardArgs {
  const Problem* problem;
  const Plan* plan;
  const void* query;
  const void* key;
  const void* value;
  const void* additional_keys;
  const void* additional_values;
  const void* bias;
  void* out;
  void* lse;
};

struct BackwardArgs {
  const Problem* problem;
  const Plan* plan;  // of the pass that runs
  const void* query;
  const void* key;
  const void* value;
  const void* additional_keys;
  const void* additional_values;
  const void* bias;
  const void* out;
  const void* lse;
  const void* dout;
  const void* dlse;
  void* delta;  // [batch, tokens, heads], compute type: rowsum(dout * out) - dlse
  void* dquery;
  void* dkey;
  void* dvalue;
  void* dadditional_keys;
  void* dadditional_values;
  void* dbias;  // [batch, heads, 2w-1 ...], compute type
  // The query gradient's share of sums over queries, one for each part of a (batch, kv head) pair:
  void* partial_keys;    // [batch, kv_heads, parts, additional, padded head_dim]
  void* partial_values;  // [batch, kv_heads, parts, additional, padded value_dim]
  void* partial_bias;    // [batch, heads, parts, 2w-1 ...]
  int64_t parts;
};

// Work is cut into tasks that are independent of each other; `scratch` is `scratch_bytes(args)`
// bytes, aligned to 64.
template <typename Args>
struct Kernel {
  int64_t (*tasks)(const Args&);
  int64_t (*scratch_bytes)(const Args&);
  void (*run)(const Args&, int64_t task, std::byte* scratch);
};

struct Kernels {
  const char* instruction_set;
  int vector_bytes;
  Kernel<ForwardArgs> forward[kStoredTypes];
  Kernel<BackwardArgs> delta[kStoredTypes];           // writes delta
  Kernel<BackwardArgs> query_gradient[kStoredTypes];  // dquery, partial sums
  Kernel<BackwardArgs> key_gradient[kStoredTypes];    // dkey, dvalue
  Kernel<BackwardArgs> reduction[kStoredTypes];       // partial sums into dadditional_*, dbias
};

// The fastest table that this processor runs.
const Kernels& kernels();

}  // namespace jax_na
