// What the warps of a kernel are whose rows are queries, and what they need before they part: all
// of a CTA but what its consumers do.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/describer.h"
#include "cuda/hopper/masker.h"
#include "cuda/hopper/producer.h"
#include "cuda/hopper/shared.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/registers.h"
#include "cuda/ptx/shared.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

// `consume(control, base, warpgroup)` is called by the warpgroups that compute.
template <typename Shape, typename Arguments, typename Consume>
__device__ __forceinline__ void take_roles(const Arguments& arguments, Consume consume) {
  constexpr int kAlignment = 1024;  // of swizzled rows
  JAX_NA_SHARED(unaligned);
  const uint32_t unaligned_base = ptx::shared_address(unaligned);
  const uint32_t base = (unaligned_base + kAlignment - 1) / kAlignment * kAlignment;
  unsigned char* shared = unaligned + (base - unaligned_base);
  static_assert(sizeof(HopperControl<Shape>) <= Shape::kControlBytes, "kControlBytes is too small");
  auto& control = *reinterpret_cast<HopperControl<Shape>*>(shared + Shape::kControlAt);
  const HopperPlan& plan = arguments.plan;
  // -1: the producer's. The shuffle tells the compiler that it is the same for all of a warp.
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0) - 1;

  fill_below<Shape>(plan, control);
  fill_places<Shape>(plan, control);
  fill_row_words<Shape>(plan, control);
  // What tiles leave of a stage stays 0: a weight of 0 does not make up for values that are NaN.
  auto clear = [&](int at, int bytes) {
    auto* words = reinterpret_cast<uint4*>(shared + at);
    for (int i = threadIdx.x; i < bytes / 16; i += Shape::kThreads)
      words[i] = make_uint4(0, 0, 0, 0);
    ptx::fence_async_shared();
  };
  if (plan.column_count() < Shape::kBlock)
    clear(Shape::kKeyAt, (Shape::kStages + Shape::kValueStages) * Shape::kStageBytes);
  // Rows that no query comes to are computed with all others, but never stored.
  if (plan.row_count() < kWarpgroupRows)
    clear(Shape::kQueryAt, Shape::kQueryBuffers * Shape::kWarpgroups * Shape::kQueryBytes);
  if (threadIdx.x == 0) {
    auto initialise = [](auto& barriers, int arrivals) {
      auto* first = reinterpret_cast<uint64_t*>(&barriers);
      for (uint64_t* at = first; at < first + sizeof barriers / sizeof *first; ++at)
        ptx::mbarrier_init(ptx::shared_address(at), arrivals);
    };
    constexpr int kConsumerWarps = 4 * Shape::kWarpgroups;
    // What a lane has read and written itself is ordered by its own arrival, so every lane arrives.
    // One does for its warp where only the copy engine and the tensor cores were at work.
    constexpr int kMaskers = 32 * Shape::kWarpgroups, kConsumers = 128 * Shape::kWarpgroups;
    initialise(control.described, 32);
    initialise(control.done, 1 + kMaskers + kConsumers);  // and the producer
    initialise(control.full_query, 1);
    initialise(control.empty_query, 1);
    initialise(control.full_key, 1 + kMaskers);  // and the producer
    initialise(control.empty_key, kConsumers);
    initialise(control.full_value, 1);
    initialise(control.empty_value, kConsumerWarps);
    ptx::mbarrier_init_fence();
  }
  __syncthreads();

  if (warpgroup < 0) {
    ptx::give_up_registers<Shape::kOtherRegisters>();
    const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 32), 0);
    if (warp == 0) {
      if (threadIdx.x == 0) produce(arguments, control, base);
    } else if (warp == 1) {
      describe(arguments, control);
    } else if (warp - 2 < Shape::kWarpgroups) {
      find_masks(arguments, control, warp - 2);
    }
  } else {
    ptx::take_registers<Shape::kConsumerRegisters>();
    consume(control, base, warpgroup);
  }
}

}  // namespace jax_na::cuda
