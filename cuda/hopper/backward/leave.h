// The gradients of an item's keys and values on their way to the tensors.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/backward/additional.h"
#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/results.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

constexpr int kBothBarrier = 1;  // of all consumers
constexpr int kOneBarrier = 2;   // and following, of one warpgroup each

// Writes a warpgroup's gradients to the place of the keys and values of buffer `rows`, which nobody
// reads any more, and on to the tensors; or those of additional keys to their sums.
template <typename Shape>
__device__ __forceinline__ void store_gradients(const HopperBackwardArguments& arguments,
                                                HopperBackwardControl<Shape>& control, int slot,
                                                int warpgroup, uint32_t rows,
                                                const float (&dkey)[Shape::kHeadDim / 2],
                                                const float (&dvalue)[Shape::kHeadDim / 2]) {
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  const HopperItem& item = control.items[slot];
  if (const int additional = control.additional[slot]; additional >= 0) {
    add_gradients<Shape::kSums>(arguments, item, Shape::kSums ? 0 : control.part[slot],
                                additional + warpgroup * plan.row_count(), 0, dkey, dvalue);
    return;
  }
  const float scales[2] = {static_cast<float>(problem.scale), static_cast<float>(problem.scale)};
  const float ones[2] = {1.f, 1.f};
  const int thread = ptx::thread() % 128, warp = thread / 32, lane = thread % 32;
  const uint32_t keys = rows + Shape::kKeyAt + warpgroup * Shape::kOutPartBytes;
  const uint32_t values = keys + Shape::kRowBytes;
  stage_results<Shape>(dkey, scales, keys, warp, lane);
  stage_results<Shape>(dvalue, ones, values, warp, lane);
  ptx::fence_async_shared();
  ptx::barrier_sync(kOneBarrier + warpgroup, 128);
  if (thread != 0) return;
  int token[kMaxRank];
  bool any = true;  // a store that begins outside of the tensor would store nothing
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int offset = plan.offset(warpgroup, a);
    token[a] = item.axis[a].row + offset * problem.axes[a].dilation;
    any = any && offset < item.axis[a].rows;
  }
  if (any) {
#pragma unroll
    for (int panel = 0; panel < Shape::kOutPanels; ++panel) {
      const int column = panel * Shape::kOutElements;
      if (column >= problem.head_dim) break;
      const MapPlace place(plan, Shape::kHeadDim, item.head, column, token[2], token[1], token[0],
                           item.entry);
      const int at = panel * Shape::kOutPanelBytes;
      ptx::tma_store(&arguments.dkey, keys + at, place.at[0], place.at[1], place.at[2], place.at[3],
                     place.at[4]);
      ptx::tma_store(&arguments.dvalue, values + at, place.at[0], place.at[1], place.at[2],
                     place.at[3], place.at[4]);
    }
  }
  ptx::tma_store_commit();
}

// Frees the buffer of the keys and values, when what store_gradients left there has left it.
__device__ __forceinline__ void free_rows(uint64_t& empty) {
  if (ptx::thread() % 128 != 0) return;
  ptx::tma_store_wait_read();
  ptx::mbarrier_arrive(ptx::shared_address(&empty));
}

}  // namespace jax_na::cuda
