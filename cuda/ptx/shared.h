// The dynamic shared memory of a block.
#pragma once

#include <cstdint>

// Declares `name`, the first byte of the block's dynamic shared memory, aligned to 128.
#define JAX_NA_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
