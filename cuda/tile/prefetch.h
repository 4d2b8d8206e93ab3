// Brings what a grid reads first to the second cache, while its CTAs find out what they have to do.
#pragma once

#include <cstdint>

#include "cuda/ptx/prefetch.h"

namespace jax_na::cuda {

struct Tensor {
  const void* base;
  int64_t elements;
};

// The first `rounds` items of all CTAs, of `items` for each box, lie at the beginning of every
// tensor of T, and each CTA asks for its share of that, whoever reads it. Every thread calls it.
template <typename T, int kTensors>
__device__ __forceinline__ void prefetch_first(const Tensor (&tensors)[kTensors], int items,
                                               int rounds) {
  constexpr int kLine = 128;
  const float part = static_cast<float>(rounds) * static_cast<float>(sizeof(T)) /
                     (static_cast<float>(items) * static_cast<float>(gridDim.x) * kLine);
  const int64_t number = blockIdx.x + static_cast<int64_t>(gridDim.x) * blockIdx.y;
#pragma unroll
  for (const Tensor& tensor : tensors) {
    const int lines = static_cast<int>(static_cast<float>(tensor.elements) * part) + 1;
    for (int line = threadIdx.x; line < lines; line += blockDim.x) {
      const int64_t at = (number * lines + line) * kLine;
      if (at < tensor.elements * static_cast<int64_t>(sizeof(T)))
        ptx::prefetch_line(static_cast<const char*>(tensor.base) + at);
    }
  }
}

}  // namespace jax_na::cuda
