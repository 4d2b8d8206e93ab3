// As cuda/ptx/opaque.h.
#pragma once

namespace jax_na::cuda::ptx {

inline const char* opaque(const char* pointer) {
  return pointer;
}

}  // namespace jax_na::cuda::ptx
