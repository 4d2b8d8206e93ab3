// The dynamic shared memory of a block.
#pragma once

#include "cuda/emulation/shared_memory.h"

#define JAX_NA_SHARED(name) unsigned char* const name = ::jax_na::emulation::shared_memory()
