// The custom calls of CUDA devices, by the C symbols that XLA calls.
#pragma once

#include "xla/ffi/api/ffi.h"

#pragma GCC visibility push(default)
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_initialize);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_fused_forward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_fused_backward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_gemm_initialize);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_gemm_forward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_gemm_backward);
#pragma GCC visibility pop
