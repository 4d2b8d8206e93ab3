// Weights from window-shaped tensors to the left operands of matrix products.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/tile/fragment.h"

namespace jax_na::cuda {

// An element's bits.
template <typename T>
using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;

// Gathers a lane's weights for 16 streamed tokens: word_of(n, r, e) is that of row g + 8r for token
// 8n + 2t + e.
template <typename T, typename WordOf>
__device__ __forceinline__ void gather(Weights<T>& weights, WordOf word_of) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t even = word_of(n, r, 0), odd = word_of(n, r, 1);
      if constexpr (std::is_same_v<T, float>) {
        weights.a[n][r] = even;
        weights.a[n][2 + r] = odd;
      } else {
        weights.a[0][2 * n + r] = even | odd << 16;
      }
    }
  }
}

}  // namespace jax_na::cuda
