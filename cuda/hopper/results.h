// Results on their way from registers to the copy engine.
#pragma once

#include <cstdint>

#include "cuda/hopper/shared.h"
#include "cuda/ptx/stmatrix.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

// Writes a warp's 16 rows of results, scaled, to the panels at `to` as the copy engine reads them.
template <typename Shape>
__device__ __forceinline__ void stage_results(const float (&out)[Shape::kHeadDim / 2],
                                              const float (&factors)[2], uint32_t to, int warp,
                                              int lane) {
  using T = typename Shape::Element;
  constexpr int kRowBytes = 2 * Shape::kOutElements, kChunks = kRowBytes / 16;
  const int row = 16 * warp + lane % 16;
  // The swizzle of 128-byte rows is by row, that of 64-byte rows by pair of rows.
  const int swizzle = kChunks == 8 ? row & 7 : (row >> 1) & 3;
#pragma unroll
  for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
    const float* part = out + 8 * step;
    const uint32_t words[4] = {pack(part[0] * factors[0], part[1] * factors[0], T()),
                               pack(part[2] * factors[1], part[3] * factors[1], T()),
                               pack(part[4] * factors[0], part[5] * factors[0], T()),
                               pack(part[6] * factors[1], part[7] * factors[1], T())};
    const int chunk = 2 * step + lane / 16;
    ptx::stmatrix(to + chunk / kChunks * Shape::kOutPanelBytes + row * kRowBytes +
                      ((chunk % kChunks) ^ swizzle) * 16,
                  words);
  }
}

}  // namespace jax_na::cuda
