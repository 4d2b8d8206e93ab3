// Tensor maps of five axes: (features of all heads, x, y, z, batch entry) or, with heads apart,
// (features, heads, x, y, z or batch entry), of which one has a single place.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

#include "core/geometry.h"

namespace jax_na::cuda {

// The tokens of a launch in a tensor.
struct MappedTensor {
  const void* data;
  CUtensorMapDataType type;
  int features;  // of a head
  int heads;
  int counts[kMaxRank];     // tokens along z, y, x
  int64_t steps[kMaxRank];  // from one to the next, in tokens of the tensor
  int64_t entries;
  int64_t entry;  // from one to the next, in tokens
  int64_t first;  // token
};

// Every token of a tensor with `counts` of them along the axes.
MappedTensor whole_tensor(const void* data, CUtensorMapDataType type, int features, int heads,
                          const int (&counts)[kMaxRank], int64_t entries);

// Those of a whole tensor that are `phase` modulo `phases`.
MappedTensor phase_of(const MappedTensor& whole, const int (&phases)[kMaxRank],
                      const int (&phase)[kMaxRank]);

struct MappedBox {
  int columns;  // 128 bytes of features, or 64; with heads apart, zeros follow a head's features
  int counts[kMaxRank];
  int steps[kMaxRank];  // from token to token
  // Whether the L2 cache fetches 128 bytes at a time, not 256 with what is next to a token's head.
  bool fetch_128 = false;
};

// Returns an empty text or what is wrong.
std::string encode_map(CUtensorMap& map, bool heads_apart, const MappedTensor& tensor,
                       const MappedBox& box);

}  // namespace jax_na::cuda
