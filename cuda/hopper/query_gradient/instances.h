// The table of kernels for the gradient of the queries, for bfloat16 and for float16.
//
// X(head_dim, block): keys of a tile.
#pragma once

#define JAX_NA_HOPPER_QUERY_GRADIENT(X) \
  X(32, 64)                             \
  X(64, 96)                             \
  X(64, 64)                             \
  X(96, 96)                             \
  X(128, 80)                            \
  X(128, 64)                            \
  X(192, 48)                            \
  X(256, 32)
