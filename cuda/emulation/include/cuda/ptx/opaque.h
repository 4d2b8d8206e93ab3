// As cuda/ptx/opaque.h.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

inline const char* opaque(const char* pointer) {
  return pointer;
}

inline uint32_t anew(uint32_t x) {
  return x;
}

}  // namespace jax_na::cuda::ptx
