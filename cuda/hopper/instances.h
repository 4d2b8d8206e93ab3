// The table of Hopper kernels that are compiled, for bfloat16 and for float16.
//
// X(head_dim, block, warpgroups, resident): keys of a tile, warpgroups of 64 queries, and CTAs of a
// multiprocessor. Tiles are as large as registers and shared memory (larger head dimensions) allow.
#pragma once

#define JAX_NA_HOPPER_FORWARD(X) \
  X(32, 96, 2, 2)                \
  X(64, 128, 2, 1)               \
  X(64, 64, 2, 2)                \
  X(96, 128, 2, 1)               \
  X(128, 128, 2, 1)              \
  X(192, 96, 2, 1)               \
  X(256, 64, 2, 1)
