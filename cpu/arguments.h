// The arguments of a custom call, checked: whatever a call passes, the kernels see a legal Problem
// or nothing.
#pragma once

#include "core/problem.h"
#include "cpu/kernels.h"
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

xla::ffi::Error read_problem(const Inputs& inputs, const Attributes& attributes, Problem& problem,
                             Stored& stored);

// Checks that a tensor has exactly this type and shape.
xla::ffi::Error expect(const char* name, const xla::ffi::AnyBuffer& buffer, xla::ffi::DataType type,
                       std::initializer_list<int64_t> shape);

xla::ffi::DataType stored_type(Stored stored);
xla::ffi::DataType compute_type(Stored stored);

}  // namespace jax_na
