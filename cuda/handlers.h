// The custom calls of CUDA devices, by the C symbols that XLA calls.
#pragma once

#include "xla/ffi/api/ffi.h"

#pragma GCC visibility push(default)
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_fused_initialize);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_fused_forward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_fused_backward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_naive_initialize);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_naive_forward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_naive_backward);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_unfused_initialize);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_unfused_products);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_unfused_sums);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_unfused_transposed);
XLA_FFI_DECLARE_HANDLER_SYMBOL(jax_na_cuda_unfused_bias_sums);
#pragma GCC visibility pop
