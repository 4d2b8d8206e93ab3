// The compiled matrix products: sizes and element types, nothing else.
//
// A problem runs in the smallest head_dim that holds its features.
#pragma once

#include <vector>

#include "cuda/dispatch.h"

// X(head_dim, block, products), where a tile has `block` columns at most. JAX_NA_TABLE is 16_BIT or
// 32_BIT, as the build says for the element type that it compiles.
#define JAX_NA_PRODUCTS_16_BIT(X) \
  X(32, 112, kPlain)              \
  X(64, 64, kPlain)               \
  X(128, 64, kPlain)              \
  X(256, 64, kPlain)
#define JAX_NA_PRODUCTS_32_BIT(X) \
  X(32, 64, kPlain)               \
  X(64, 64, kPlain)               \
  X(128, 64, kPlain)              \
  X(256, 32, kPlain)              \
  X(32, 64, kSplit)               \
  X(64, 64, kSplit)               \
  X(128, 64, kSplit)              \
  X(256, 32, kSplit)

#define JAX_NA_PRODUCTS_JOIN(a, b) a##b
#define JAX_NA_PRODUCTS_OF(table, X) JAX_NA_PRODUCTS_JOIN(JAX_NA_PRODUCTS_, table)(X)

namespace jax_na::cuda {

// Each is defined where it is compiled, for float, bfloat16 and float16.
template <typename T>
const std::vector<Instance>& scores_instances();
template <typename T>
const std::vector<Instance>& combine_instances();
template <typename T>
const std::vector<Instance>& inverse_instances();

// What the planner is to know of an instance: two tensors on either side, of half an element each,
// make up the one that there is.
template <typename T>
Instance product_instance(int head_dim, int row_tiles, int block, int tables_bytes, int ctas,
                          Precision precision, const void* kernel) {
  Instance made{};
  made.limits = {head_dim, sizeof(T) / 2, block, row_tiles, tables_bytes, 0, 0, ctas * kMaxWarps};
  made.precision = precision;
  made.kernel = kernel;
  return made;
}

}  // namespace jax_na::cuda
