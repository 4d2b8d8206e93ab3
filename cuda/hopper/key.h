// What plans of the Hopper kernels are remembered by.
#pragma once

#include "core/problem.h"
#include "core/stored.h"
#include "cuda/device.h"
#include "cuda/remembered.h"

namespace jax_na::cuda {

template <typename... More>
PlanKey hopper_key(const Problem& problem, Stored stored, const Device& device,
                   const More&... more) {
  return PlanKey(problem, stored, device.multiprocessors, static_cast<int>(device.hopper()),
                 more...);
}

}  // namespace jax_na::cuda
