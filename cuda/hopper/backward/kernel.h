// The backward kernel of sm_90a: persistent CTAs, one or two to a multiprocessor, of two warpgroups
// that compute, and of one with a warp that asks for copies, one that describes items and adds up
// the gradient of the queries, and two that find masks.
//
// Keys and values of an item stay in shared memory and the queries that see them stream past, with
// the cotangents of their results. docs/hopper-backward.md derives the bound and the schedule.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/consumer.h"
#include "cuda/hopper/backward/keys.h"
#include "cuda/hopper/backward/light.h"
#include "cuda/hopper/backward/light_keys.h"
#include "cuda/hopper/backward/masker.h"
#include "cuda/hopper/backward/paired.h"
#include "cuda/hopper/backward/producer.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/sums.h"
#include "cuda/hopper/backward/wide.h"
#include "cuda/hopper/backward/wide_keys.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/registers.h"
#include "cuda/ptx/shared.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    hopper_backward_kernel(const __grid_constant__ HopperBackwardArguments arguments) {
  using Control = HopperBackwardControl<Shape>;
  constexpr int kAlignment = 1024;  // of swizzled rows
  JAX_NA_SHARED(unaligned);
  const uint32_t unaligned_base = ptx::shared_address(unaligned);
  const uint32_t base = (unaligned_base + kAlignment - 1) / kAlignment * kAlignment;
  unsigned char* shared = unaligned + (base - unaligned_base);
  static_assert(sizeof(Control) <= Shape::kControlBytes, "kControlBytes is too small");
  auto& control = *reinterpret_cast<Control*>(shared + Shape::kControlAt);
  const HopperBackwardPlan& plan = arguments.plan;
  // -1: the producer's. The shuffle tells the compiler that it is the same for all of a warp.
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0) - 1;

  fill_below<Shape>(plan, control);
  fill_row_words(plan, control);
  // What boxes leave of their places stays 0: a weight of 0 does not make up for what is NaN.
  if (plan.row_count() < kWarpgroupRows || plan.column_count() < Shape::kBlock) {
    auto* words = reinterpret_cast<uint4*>(shared);
    for (int i = threadIdx.x; i < Shape::kDscoreAt / 16; i += Shape::kThreads)
      words[i] = make_uint4(0, 0, 0, 0);
    ptx::fence_async_shared();
  }
  if (threadIdx.x == 0) {
    auto initialise = [](auto& barriers, int arrivals) {
      auto* first = reinterpret_cast<uint64_t*>(&barriers);
      for (uint64_t* at = first; at < first + sizeof barriers / sizeof *first; ++at)
        ptx::mbarrier_init(ptx::shared_address(at), arrivals);
    };
    constexpr int kConsumerWarps = 4 * Shape::kWarpgroups;
    // Every lane arrives that has read or written itself, as in the forward kernel.
    constexpr int kMaskers = 32 * Shape::kWarpgroups, kConsumers = 128 * Shape::kWarpgroups;
    initialise(control.described, 32);
    initialise(control.done, 1 + kMaskers + kConsumers);  // and the producer
    initialise(control.full_rows, 1);
    initialise(control.empty_rows, Shape::kWarpgroups);
    initialise(control.full_query, 1 + kMaskers);  // and the producer
    initialise(control.empty_query, kConsumers);
    initialise(control.full_dout, 1);
    initialise(control.empty_dout, kConsumerWarps);
    initialise(control.full_dscores, Shape::kWarpgroups);
    initialise(control.empty_dscores, kConsumerWarps);
    initialise(control.full_sums, kConsumers / Shape::kSumParts);
    initialise(control.empty_sums, 1);
    ptx::mbarrier_init_fence();
  }
  __syncthreads();

  if (warpgroup < 0) {
    ptx::give_up_registers<Shape::kOtherRegisters>();
    const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 32), 0);
    if (warp == 0) {
      if (threadIdx.x == 0) produce(arguments, control, base);
    } else if (warp == 1) {
      describe_and_add(arguments, control, base);
    } else {
      find_masks(arguments, control, warp - 2);
    }
  } else {
    ptx::take_registers<Shape::kComputeRegisters>();
    if constexpr (!Shape::kSums && Shape::kWide)
      consume_wide_keys(arguments, control, base, warpgroup);
    else if constexpr (!Shape::kSums && Shape::kResident == 1)
      consume_keys(arguments, control, base, warpgroup);
    else if constexpr (!Shape::kSums)
      consume_light_keys(arguments, control, base, warpgroup);
    else if constexpr (Shape::kWide)
      consume_wide(arguments, control, base, warpgroup);
    else if constexpr (Shape::kPairs)
      consume_paired(arguments, control, base, warpgroup);
    else if constexpr (Shape::kResident == 1)
      consume(arguments, control, base, warpgroup);
    else
      consume_light(arguments, control, base, warpgroup);
  }
}

}  // namespace jax_na::cuda
