// Where a device's slabs lie, which only the device knows: origins are a tensor.
#pragma once

#include <cstdint>

#include "core/problem.h"

namespace jax_na::cuda {

// Axis `a` with the origins of its slabs, [2][3] of queries and keys; they are not read where the
// slabs are the whole axis. Origins that no slab can have are moved to the nearest that one can:
// no host has seen them, and nothing is read or written outside of a tensor because of them.
__device__ __forceinline__ Axis place_axis(const Problem& problem, const int32_t* origins, int a) {
  Axis axis = problem.axes[a];
  if (axis.query_count != axis.length || axis.key_count != axis.length) {
    const int halo = axis.boundary == Boundary::kWrap ? axis.length : 0;
    axis.query_origin = min(max(origins[a], 0), axis.length - axis.query_count);
    axis.key_origin = min(max(origins[kMaxRank + a], -halo), axis.length + halo - axis.key_count);
  }
  return axis;
}

}  // namespace jax_na::cuda
