// The arguments of a custom call, checked: whatever a call passes, the kernels see a legal Problem
// or nothing.
#pragma once

#include "core/problem.h"
#include "core/stored.h"
#include "xla/ffi/api/ffi.h"

namespace jax_na {

// The attributes that forward and backward share; arrays have an entry for each of the axes z, y,
// x.
struct Attributes {
  xla::ffi::Span<const int64_t> length;
  xla::ffi::Span<const int64_t> window;
  xla::ffi::Span<const int64_t> stride;
  xla::ffi::Span<const int64_t> dilation;
  xla::ffi::Span<const int64_t> causal;
  xla::ffi::Span<const int64_t> boundary;
  double scale;
};

// The operands that forward and backward share.
struct Inputs {
  const xla::ffi::AnyBuffer& query;
  const xla::ffi::AnyBuffer& key;
  const xla::ffi::AnyBuffer& value;
  const xla::ffi::AnyBuffer& additional_keys;
  const xla::ffi::AnyBuffer& additional_values;
  const xla::ffi::AnyBuffer& bias;
  const xla::ffi::AnyBuffer& origins;  // int32 [2, 3]: of the queries and of the keys on each axis
};

struct ForwardResults {
  const xla::ffi::AnyBuffer& out;
  const xla::ffi::AnyBuffer& lse;
};

struct BackwardInputs {
  const xla::ffi::AnyBuffer& out;
  const xla::ffi::AnyBuffer& lse;
  const xla::ffi::AnyBuffer& dout;
  const xla::ffi::AnyBuffer& dlse;
};

struct BackwardResults {
  const xla::ffi::AnyBuffer& dquery;
  const xla::ffi::AnyBuffer& dkey;
  const xla::ffi::AnyBuffer& dvalue;
  const xla::ffi::AnyBuffer& dadditional_keys;
  const xla::ffi::AnyBuffer& dadditional_values;
  const xla::ffi::AnyBuffer& dbias;
};

// Where the values of `origins` are: on a device only the kernels can read them.
enum class Memory { kHost, kDevice };

// Reads the problem and checks that the results fit it.
xla::ffi::Error read_forward(const Inputs& inputs, const ForwardResults& results,
                             const Attributes& attributes, Memory origins, Problem& problem,
                             Stored& stored);
xla::ffi::Error read_backward(const Inputs& inputs, const BackwardInputs& more,
                              const BackwardResults& results, const Attributes& attributes,
                              Memory origins, Problem& problem, Stored& stored);

}  // namespace jax_na
