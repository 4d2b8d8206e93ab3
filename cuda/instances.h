// The table of fused kernels that are compiled: sizes and element types, nothing else.
//
// X(head_dim, row_tiles, block, products) for each kernel of an element type. A problem runs in the
// smallest head_dim that holds its keys and its values; among the kernels of one head_dim the
// planner predicts the fastest. Head dims in between would halve no one's time and lengthen every
// build.
#pragma once

// bfloat16 and float16
#define JAX_NA_FORWARD_16_BIT(X) \
  X(32, 1, 112, kPlain)          \
  X(32, 2, 64, kPlain)           \
  X(64, 1, 64, kPlain)           \
  X(96, 1, 64, kPlain)           \
  X(128, 1, 64, kPlain)          \
  X(256, 1, 64, kPlain)

// float32
#define JAX_NA_FORWARD_32_BIT(X) \
  X(32, 1, 64, kPlain)           \
  X(64, 1, 64, kPlain)           \
  X(128, 1, 64, kPlain)          \
  X(256, 1, 16, kPlain)          \
  X(32, 1, 64, kSplit)           \
  X(64, 1, 64, kSplit)           \
  X(128, 1, 32, kSplit)          \
  X(256, 1, 16, kSplit)

// X(head_dim): the kernels that only stream
#define JAX_NA_STREAMED_16_BIT(X) X(64) X(96) X(128)
#define JAX_NA_STREAMED_32_BIT(X)

// X(head_dim, row_tiles, block, products)
#define JAX_NA_QUERY_GRADIENT_16_BIT(X) \
  X(32, 1, 112, kPlain)                 \
  X(64, 1, 64, kPlain)                  \
  X(96, 1, 64, kPlain)                  \
  X(128, 1, 64, kPlain)                 \
  X(256, 1, 64, kPlain)
#define JAX_NA_QUERY_GRADIENT_32_BIT(X) \
  X(32, 1, 64, kPlain)                  \
  X(64, 1, 64, kPlain)                  \
  X(128, 1, 64, kPlain)                 \
  X(256, 1, 16, kPlain)                 \
  X(32, 1, 64, kSplit)                  \
  X(64, 1, 64, kSplit)                  \
  X(128, 1, 64, kSplit)                 \
  X(256, 1, 16, kSplit)

// X(head_dim, block, products)
#define JAX_NA_KEY_GRADIENT_16_BIT(X) \
  X(32, 112, kPlain)                  \
  X(64, 64, kPlain)                   \
  X(96, 64, kPlain)                   \
  X(128, 64, kPlain)                  \
  X(256, 64, kPlain)
#define JAX_NA_KEY_GRADIENT_32_BIT(X) \
  X(32, 64, kPlain)                   \
  X(64, 64, kPlain)                   \
  X(128, 64, kPlain)                  \
  X(256, 16, kPlain)                  \
  X(32, 64, kSplit)                   \
  X(64, 64, kSplit)                   \
  X(128, 64, kSplit)                  \
  X(256, 16, kSplit)

// JAX_NA_TABLE is 16_BIT or 32_BIT, as the build says for the element type that it compiles.
#define JAX_NA_JOIN(a, b, c) a##b##_##c
#define JAX_NA_EXPAND(a, b, c) JAX_NA_JOIN(a, b, c)
#define JAX_NA_INSTANCES(pass, X) JAX_NA_EXPAND(JAX_NA_, pass, JAX_NA_TABLE)(X)
