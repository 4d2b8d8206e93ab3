// The table of Hopper kernels that are compiled, for bfloat16 and for float16.
//
// X(head_dim, block, warpgroups): keys of a tile, and warpgroups of 64 queries. Tiles are as large
// as registers (128 keys) and shared memory (larger head dimensions) allow.
#pragma once

#define JAX_NA_HOPPER_FORWARD(X) \
  X(32, 128, 2)                  \
  X(64, 128, 2)                  \
  X(96, 128, 2)                  \
  X(128, 128, 2)                 \
  X(192, 96, 2)                  \
  X(256, 64, 2)
