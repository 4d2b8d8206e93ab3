// The table of Hopper backward kernels that are compiled, for bfloat16 and for float16.
//
// X(head_dim)
#pragma once

// Those that leave the gradient of the queries to another kernel.
#define JAX_NA_HOPPER_KEY_GRADIENT(X) \
  X(32)                               \
  X(64)                               \
  X(96)                               \
  X(128)                              \
  X(192)                              \
  X(256)

#define JAX_NA_HOPPER_BACKWARD(X) \
  X(32)                           \
  X(64)                           \
  X(96)                           \
  X(128)                          \
  X(192)                          \
  X(256)
