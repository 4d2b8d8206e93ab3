// Tensor maps of five axes: (features of all heads, x, y, z, batch entry).
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

#include "core/geometry.h"

namespace jax_na::cuda {

struct MappedTensor {
  const void* data;
  CUtensorMapDataType type;
  int columns;           // features of all heads
  int counts[kMaxRank];  // tokens along z, y, x
  int64_t entries;
};

struct MappedBox {
  int columns;  // 128 bytes of them, or 64
  int counts[kMaxRank];
  int steps[kMaxRank];  // from token to token
};

// Returns an empty text or what is wrong.
std::string encode_map(CUtensorMap& map, const MappedTensor& tensor, const MappedBox& box);

}  // namespace jax_na::cuda
