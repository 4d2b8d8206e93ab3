// The forward kernel of sm_90a: persistent CTAs, one or two to a multiprocessor, of two warpgroups
// that compute, and of one with a warp that asks for copies, one that describes items, and two that
// find masks.
//
// The copy engine takes boxes out of the tensors as they are, without a permutation of tokens, and
// the tensor cores work on what it wrote. docs/hopper-forward.md derives the bound and the
// schedule.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/light.h"
#include "cuda/hopper/overlapped.h"
#include "cuda/hopper/roles.h"
#include "cuda/hopper/shared.h"

namespace jax_na::cuda {

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    hopper_forward_kernel(const __grid_constant__ HopperArguments arguments) {
  take_roles<Shape>(arguments, [&](HopperControl<Shape>& control, uint32_t base, int warpgroup) {
    HopperConsumer<Shape> consumer(arguments, control, base, warpgroup);
    if constexpr (Shape::kResident == 1)
      consume_overlapped(consumer);
    else
      consume_light(consumer);
  });
}

}  // namespace jax_na::cuda
