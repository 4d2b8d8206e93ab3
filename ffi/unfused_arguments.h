// The arguments of the custom calls of na_qk and na_av, checked.
#pragma once

#include "core/problem.h"
#include "core/stored.h"
#include "ffi/arguments.h"
#include "xla/ffi/api/ffi.h"

namespace jax_na {

// Tensors in the layouts of cuda/naive/unfused.h, on axes z, y, x instead of tokens; null where an
// operation has none.
struct UnfusedTensors {
  const xla::ffi::AnyBuffer* slots = nullptr;
  const xla::ffi::AnyBuffer* query_rows = nullptr;
  const xla::ffi::AnyBuffer* key_rows = nullptr;
  const xla::ffi::AnyBuffer* additional_rows = nullptr;
  const xla::ffi::AnyBuffer* bias = nullptr;
};

// Reads the problem from its slots, rows of queries and rows of keys, and checks that all tensors
// fit each other. Without rows the problem has one head dimension and as many key heads as heads.
xla::ffi::Error read_unfused(const UnfusedTensors& tensors, const Attributes& attributes,
                             Problem& problem, Stored& stored);

}  // namespace jax_na
