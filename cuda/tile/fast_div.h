// Division by a number that the host knows, without a division on the device.
#pragma once

#include <cstdint>

#include "core/geometry.h"

#if defined(__CUDACC__) || defined(JAX_NA_EMULATION)
#include "cuda/ptx/math.h"
#endif

namespace jax_na::cuda {

// Exact for dividends below 2^31 (Granlund and Montgomery 1994, figure 4.1).
struct FastDiv {
  uint32_t divisor = 1;
  uint32_t magic = 1;
  uint32_t shift = 0;

  FastDiv() = default;
  explicit FastDiv(int by) : divisor(static_cast<uint32_t>(by)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    magic = static_cast<uint32_t>(
        (uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor) / divisor + 1);
  }

#if defined(__CUDACC__) || defined(JAX_NA_EMULATION)
  // Replaces `n` by the quotient and returns the remainder.
  __device__ __forceinline__ int split(int& n) const {
    uint32_t dividend = static_cast<uint32_t>(n);
    uint32_t quotient = (ptx::mul_high(dividend, magic) + dividend) >> shift;
    n = static_cast<int>(quotient);
    return static_cast<int>(dividend - quotient * divisor);
  }
#endif
};

}  // namespace jax_na::cuda
