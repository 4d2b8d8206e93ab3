// As cuda/ptx/global_words.h.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <cstring>

#include "cuda/emulation/fail.h"

namespace jax_na::cuda::ptx {

inline void store_global_16(void* to, const uint4& words) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0)
    emulation::fail("st.global.v4 to %p, which is not aligned to 16 bytes", to);
  std::memcpy(to, &words, 16);
}

}  // namespace jax_na::cuda::ptx
