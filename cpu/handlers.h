// The custom calls of the CPU, by the C symbols that XLA calls.
#pragma once

#include "xla/ffi/api/ffi.h"

#pragma GCC visibility push(default)
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cpu_forward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cpu_backward);
#pragma GCC visibility pop
