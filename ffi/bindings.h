// The operands, results and attributes of the custom calls, as pieces of an xla::ffi binding.
#pragma once

#include "xla/ffi/api/ffi.h"

#define JAX_NA_INPUTS                                          \
  Arg<xla::ffi::AnyBuffer>()      /* query */                  \
      .Arg<xla::ffi::AnyBuffer>() /* key */                    \
      .Arg<xla::ffi::AnyBuffer>() /* value */                  \
      .Arg<xla::ffi::AnyBuffer>() /* additional_keys */        \
      .Arg<xla::ffi::AnyBuffer>() /* additional_values */      \
      .Arg<xla::ffi::AnyBuffer>() /* relative_position_bias */ \
      .Arg<xla::ffi::AnyBuffer>() /* origins */

#define JAX_NA_RESULTS                      \
  Ret<xla::ffi::AnyBuffer>()      /* out */ \
      .Ret<xla::ffi::AnyBuffer>() /* lse */

#define JAX_NA_BACKWARD_INPUTS               \
  Arg<xla::ffi::AnyBuffer>()      /* out */  \
      .Arg<xla::ffi::AnyBuffer>() /* lse */  \
      .Arg<xla::ffi::AnyBuffer>() /* dout */ \
      .Arg<xla::ffi::AnyBuffer>() /* dlse */

#define JAX_NA_GRADIENTS                                   \
  Ret<xla::ffi::AnyBuffer>()      /* dquery */             \
      .Ret<xla::ffi::AnyBuffer>() /* dkey */               \
      .Ret<xla::ffi::AnyBuffer>() /* dvalue */             \
      .Ret<xla::ffi::AnyBuffer>() /* dadditional_keys */   \
      .Ret<xla::ffi::AnyBuffer>() /* dadditional_values */ \
      .Ret<xla::ffi::AnyBuffer>() /* dbias */

#define JAX_NA_ATTRIBUTES                                 \
  Attr<xla::ffi::Span<const int64_t>>("length")           \
      .Attr<xla::ffi::Span<const int64_t>>("kernel_size") \
      .Attr<xla::ffi::Span<const int64_t>>("stride")      \
      .Attr<xla::ffi::Span<const int64_t>>("dilation")    \
      .Attr<xla::ffi::Span<const int64_t>>("is_causal")   \
      .Attr<xla::ffi::Span<const int64_t>>("boundary")    \
      .Attr<double>("scale")
