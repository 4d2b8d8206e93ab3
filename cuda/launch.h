// What the handlers see of the CUDA kernels: arguments, and functions that launch.
#pragma once

#include <cstdint>
#include <string>

#include "core/problem.h"
#include "core/stored.h"

typedef struct CUstream_st* cudaStream_t;

namespace jax_na::cuda {

// How float32 products are made where tensor cores make them: of TF32 numbers, or of enough of them
// to keep float32's accuracy.
enum class Precision : int { kDefault = 0, kHighest = 1 };

// Tensors in device memory, in the layouts of Problem. Bias, LSE and its cotangent are float, or
// double for float64 tensors.
struct Forward {
  Problem problem;
  Stored stored;
  Precision precision;
  const void* query;
  const void* key;
  const void* value;
  const void* additional_keys;
  const void* additional_values;
  const void* bias;
  const int32_t* origins;  // [2][3], of queries and keys; read unless every axis is held whole
  void* out;
  void* lse;
};

struct Backward {
  Problem problem;
  Stored stored;
  Precision precision;
  const void* query;
  const void* key;
  const void* value;
  const void* additional_keys;
  const void* additional_values;
  const void* bias;
  const int32_t* origins;
  const void* out;
  const void* lse;
  const void* dout;
  const void* dlse;
  void* dquery;
  void* dkey;
  void* dvalue;
  void* dadditional_keys;
  void* dadditional_values;
  void* dbias;      // [batch, heads, 2w-1 ...]
  void* workspace;  // *_backward_workspace(...) bytes, aligned to 256
};

// Each launches on `stream` without allocating or waiting, and returns an empty text or what is
// wrong.
std::string fused_forward(const Forward& arguments, cudaStream_t stream);
//
// A deterministic backward pass has the same bits in every run. The other one may make sums in any
// order where that is faster.
std::string fused_backward(const Backward& arguments, bool deterministic, cudaStream_t stream);
int64_t fused_backward_workspace(const Problem& problem, Stored stored, bool deterministic);

// Loads every kernel of the library, so that no launch has to.
std::string load_kernels();

}  // namespace jax_na::cuda
