// As cuda/ptx/prefetch.h.
#pragma once

namespace jax_na::cuda::ptx {

inline void prefetch_line(const void*) {}

}  // namespace jax_na::cuda::ptx
