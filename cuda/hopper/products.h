// The products of a warpgroup's 64 rows with a tile of columns.
#pragma once

#include <cstdint>

#include "cuda/hopper/shared.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {

// scores = rows columns^T, of a warpgroup's rows and a tile's columns.
template <typename Shape>
__device__ __forceinline__ void issue_scores(float (&scores)[Shape::kBlock / 2], uint32_t rows,
                                             uint32_t columns) {
  constexpr int kLine = Shape::kLineBytes, kPanelSteps = kLine / 32;
  const uint64_t a = ptx::wgmma_operand<kLine>(rows, 0);
  const uint64_t b = ptx::wgmma_operand<kLine>(columns, 0);
#pragma unroll
  for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
    const int panel = step / kPanelSteps, within = 32 * (step % kPanelSteps);
    ptx::wgmma<typename Shape::Element, Shape::kBlock>(
        scores, ptx::wgmma_advance(a, panel * Shape::kRowPanelBytes + within),
        ptx::wgmma_advance(b, panel * Shape::kStagePanelBytes + within), step > 0);
  }
}

// out = weights columns (+ out where `add` is not 0).
template <typename Shape>
__device__ __forceinline__ void issue_combination(float (&out)[Shape::kHeadDim / 2],
                                                  const uint32_t (&weights)[Shape::kBlock / 16][4],
                                                  uint32_t columns, int add) {
  constexpr int kLine = Shape::kLineBytes;
  const uint64_t b = ptx::wgmma_operand<kLine>(columns, Shape::kStagePanelBytes);
#pragma unroll
  for (int step = 0; step < Shape::kBlock / 16; ++step)
    ptx::wgmma<typename Shape::Element, Shape::kHeadDim>(
        out, weights[step], ptx::wgmma_advance(b, step * 16 * kLine), step > 0 ? 1 : add);
}

}  // namespace jax_na::cuda
