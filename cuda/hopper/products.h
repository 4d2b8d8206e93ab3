// The products of a warpgroup's 64 rows with a tile of columns.
#pragma once

#include <cstdint>

#include "cuda/hopper/shared.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {

// An operand of products that stays where it is, or is so many bytes further on. Its upper half
// does not depend on the place; the shuffle tells the compiler not to find the lower one anew every
// time.
template <int kLineBytes>
struct WgmmaPlace {
  uint32_t lower, upper;

  __device__ __forceinline__ WgmmaPlace(uint32_t address, uint32_t panel_bytes) {
    const uint64_t operand = ptx::wgmma_operand<kLineBytes>(address, panel_bytes);
    lower = __shfl_sync(~0u, static_cast<uint32_t>(operand), 0);
    upper = static_cast<uint32_t>(operand >> 32);
  }
  __device__ __forceinline__ uint64_t operand(int bytes) const {
    return uint64_t{upper} << 32 | (lower + (bytes >> 4));
  }
};

// scores = rows columns^T, of a warpgroup's rows and a tile's columns, operands a and b.
template <typename Shape>
__device__ __forceinline__ void issue_scores(float (&scores)[Shape::kBlock / 2], uint64_t a,
                                             uint64_t b) {
  constexpr int kPanelSteps = Shape::kLineBytes / 32;
#pragma unroll
  for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
    const int panel = step / kPanelSteps, within = 32 * (step % kPanelSteps);
    ptx::wgmma<typename Shape::Element, Shape::kBlock>(
        scores, ptx::wgmma_advance(a, panel * Shape::kRowPanelBytes + within),
        ptx::wgmma_advance(b, panel * Shape::kStagePanelBytes + within), step > 0);
  }
}

// The same of what begins at addresses in shared memory.
template <typename Shape>
__device__ __forceinline__ void issue_scores(float (&scores)[Shape::kBlock / 2], uint32_t rows,
                                             uint32_t columns) {
  issue_scores<Shape>(scores, ptx::wgmma_operand<Shape::kLineBytes>(rows, 0),
                      ptx::wgmma_operand<Shape::kLineBytes>(columns, 0));
}

// out = weights columns (+ out where `add` is not 0), of operand b.
template <typename Shape>
__device__ __forceinline__ void issue_combination(float (&out)[Shape::kHeadDim / 2],
                                                  const uint32_t (&weights)[Shape::kBlock / 16][4],
                                                  uint64_t b, int add) {
#pragma unroll
  for (int step = 0; step < Shape::kBlock / 16; ++step)
    ptx::wgmma<typename Shape::Element, Shape::kHeadDim>(
        out, weights[step], ptx::wgmma_advance(b, step * 16 * Shape::kLineBytes),
        step > 0 ? 1 : add);
}

// The same of columns that begin at an address in shared memory.
template <typename Shape>
__device__ __forceinline__ void issue_combination(float (&out)[Shape::kHeadDim / 2],
                                                  const uint32_t (&weights)[Shape::kBlock / 16][4],
                                                  uint32_t columns, int add) {
  issue_combination<Shape>(
      out, weights, ptx::wgmma_operand<Shape::kLineBytes>(columns, Shape::kStagePanelBytes), add);
}

}  // namespace jax_na::cuda
