// The kernel of sm_90a for the gradient of the queries: persistent CTAs that go through boxes of
// queries as those of the forward kernel do.
//
// Queries and the cotangents of their results stay in shared memory while keys and values stream
// past, and the gradient stays in registers: every element is written once, so that runs agree to
// the bit.
#pragma once

#include <cstdint>

#include "cuda/hopper/query_gradient/arguments.h"
#include "cuda/hopper/query_gradient/consumer.h"
#include "cuda/hopper/query_gradient/light.h"
#include "cuda/hopper/query_gradient/shared.h"
#include "cuda/hopper/roles.h"

namespace jax_na::cuda {

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    hopper_query_gradient_kernel(const __grid_constant__ HopperQueryGradientArguments arguments) {
  take_roles<Shape>(arguments, [&](HopperControl<Shape>& control, uint32_t base, int warpgroup) {
    const HopperConsumer<Shape> consumer(arguments, control, base, warpgroup);
    if constexpr (Shape::kResident == 1)
      consume(arguments, consumer);
    else
      consume_light(arguments, consumer);
  });
}

}  // namespace jax_na::cuda
