// Where a lane's parts of what a consumer reads and writes are, found once: to find them again
// every time means to read the thread's number first, while everyone waits for what comes of it.
#pragma once

#include <cstdint>

#include "cuda/hopper/shared.h"
#include "cuda/ptx/lane.h"

namespace jax_na::cuda {

struct LanePlaces {
  uint32_t row;        // the first of its two rows of a warpgroup's products
  uint32_t statistic;  // bytes to that of the first of its columns, 8n + 2t
  uint32_t dscores;    // bytes in a warpgroup's panel of gradients of scores
  uint32_t sums;       // bytes in a panel of staged sums

  __device__ __forceinline__ LanePlaces() {
    const uint32_t thread = ptx::thread() % 128, warp = thread / 32, lane = thread % 32;
    const uint32_t g = lane / 4, t = lane % 4, line = 16 * warp + lane % 16;
    row = 16 * warp + g;
    statistic = 8 * t;
    dscores = line * kPanelRowBytes + 16 * (lane / 16 ^ line % 8);
    sums = row * kPanelRowBytes + 16 * (2 * t ^ g);
  }
  // Of 16 queries, one step of a product.
  __device__ __forceinline__ uint32_t dscores_of(int step) const { return dscores ^ 32 * step; }
};

}  // namespace jax_na::cuda
