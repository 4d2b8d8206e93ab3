// Parts of a workspace follow each other, each at a place as aligned as the workspace itself.
#pragma once

#include <cstdint>

namespace jax_na::cuda {

// Bytes that a part takes until the next one begins.
inline int64_t align_workspace(int64_t bytes) {
  constexpr int64_t kAlignment = 256;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace jax_na::cuda
