// As cuda/ptx/anew.h.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

inline uint32_t anew(uint32_t x) {
  return x;
}

}  // namespace jax_na::cuda::ptx
