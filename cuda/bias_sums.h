// The gradient of the bias as sums of integers, which come out the same in whatever order they are
// made: the fused kernel adds to them by atomics.
//
// A summand is the cotangent of a score, and no cotangent is larger than
//
//   weight * |dout . value - delta| <= 2 * features * largest |dout| * largest |value| + largest
//   |dlse|
//
// so that one factor, a power of two, makes integers of them all whose sums fit into 64 bits. They
// keep some 40 bits of the largest summand, where sums of float numbers keep 24 of the sum.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/launch.h"

namespace jax_na::cuda {

struct BiasSums {
  // Of the tensors, as the bits of floats, which compare as the floats do.
  struct Largest {
    unsigned dout, value, dlse;
    unsigned finished;  // CTAs that have looked at their share
  };
  Largest largest;
  float factor;  // NaN where a tensor is not finite

  // Table [batch, heads, entries], which begins behind this.
  static constexpr int kTable = 32;
  JAX_NA_INLINE static unsigned long long* table(void* sums) {
    return reinterpret_cast<unsigned long long*>(static_cast<char*>(sums) + kTable);
  }
};
static_assert(sizeof(BiasSums) <= BiasSums::kTable);

// Bytes of the sums.
int64_t bias_sums_bytes(const Problem& problem);

// Clears the sums and finds their factor.
cudaError_t begin_bias_sums(const Backward& arguments, void* sums, cudaStream_t stream);

// Stores dbias.
cudaError_t finish_bias_sums(const Backward& arguments, const void* sums, cudaStream_t stream);

// Loads their kernels, so that no launch has to.
cudaError_t load_bias_sums();

}  // namespace jax_na::cuda
