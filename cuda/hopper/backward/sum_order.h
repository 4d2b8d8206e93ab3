// The gradient of the queries while it is summed: float32 [batch, heads, z, y, x, features], with
// the features of every 32 in an order that suits those who add, and as many of them that none of
// those 32 are missing.
//
// A lane with t = lane % 4 has columns 8n + 2t and 8n + 2t + 1 of a product. Of the columns with n
// = 2j and 2j + 1 it makes 16 bytes, chunk 2t + j % 2 of the 128 bytes that hold 32 columns: with
// the swizzle of the copy engine no two lanes of a quarter of a warp meet in a bank.
#pragma once

namespace jax_na::cuda {

// Where a pair of neighbouring features begins, of those of a head.
__device__ __forceinline__ int sum_place(int feature) {
  const int within = feature % 32, chunk = within % 8 / 2 * 2 + within / 16;
  return feature - within + 4 * chunk + within / 8 % 2 * 2;
}

}  // namespace jax_na::cuda
