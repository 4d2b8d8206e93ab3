// A group: the lanes of a warp that share a row of features, and the groups of a launch.
//
// All groups of a warp take the same steps, so that every shuffle is one of the whole warp.
#pragma once

#include <cstdint>

#include "cuda/tile/fast_div.h"

namespace jax_na::cuda::naive {

constexpr int kThreads = 128;
constexpr int kPerLane = 8;  // features of a row that a lane holds
constexpr int kMostFeatures = 32 * kPerLane;

// What a group does: one item (a token, say) of one head of one batch entry. A group without
// anything to do repeats the last one's steps and stores nothing.
struct Place {
  int64_t entry;
  int item;
  int head;
  bool active;
};

// The groups of a launch: [entries, items, heads]. Heads of a token are neighbours in memory, and
// so are their groups in a warp.
struct Groups {
  int64_t first_entry;  // of the grid's second axis
  int items;
  FastDiv heads;
  FastDiv height, width;  // of the tensor [depth, height, width, ..] that tokens are of
  int lane_shift;         // a group has 2^lane_shift lanes

  __device__ __forceinline__ int lanes() const { return 1 << lane_shift; }
  __device__ __forceinline__ int lane() const { return threadIdx.x & (lanes() - 1); }

  __device__ __forceinline__ Place place() const {
    const int64_t number =
        static_cast<int64_t>(blockIdx.x) * (kThreads >> lane_shift) + (threadIdx.x >> lane_shift);
    const int64_t count = static_cast<int64_t>(items) * heads.divisor;
    int item = static_cast<int>(number < count ? number : count - 1);
    const int head = heads.split(item);
    return {first_entry + blockIdx.y, item, head, number < count};
  }

  // The sums over the lanes of a group, in all of them.
  template <int kCount, typename R>
  __device__ __forceinline__ void sum(R (&x)[kCount]) const {
    for (int step = 1; step < lanes(); step *= 2) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) x[i] += __shfl_xor_sync(~0u, x[i], step);
    }
  }
};

// The largest of a warp's.
__device__ __forceinline__ int warp_max(int x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_xor_sync(~0u, x, step);
    x = x > other ? x : other;
  }
  return x;
}

}  // namespace jax_na::cuda::naive
