// The forward pass on Hopper GPUs (sm_90a).
#pragma once

#include <string>
#include <vector>

#include "cuda/hopper/plan.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// A compiled kernel. It takes HopperArguments by value.
struct HopperInstance {
  HopperLimits limits;
  const void* kernel;
  int threads;
  int shared_bytes;
  int out_columns;  // of a box of results
};

// Those of an element type, defined where they are compiled.
template <typename T>
const std::vector<HopperInstance>& hopper_instances();

struct HopperChoice {
  const HopperInstance* instance = nullptr;
  HopperPlan plan;
  std::string refusal;  // why none, where instance is null
};

// The kernel and the plan for the problem on the current device, with the predicted time in
// plan.clocks. Remembered, so that a repeated call costs a look-up.
HopperChoice choose_hopper(const Problem& problem, Stored stored);

// Launches on `stream` without allocating or waiting; returns an empty text or what is wrong.
std::string launch_hopper(const HopperChoice& choice, const Forward& arguments,
                          cudaStream_t stream);
std::string hopper_forward(const Forward& arguments, cudaStream_t stream);

// Loads the kernels where the current device is a Hopper GPU.
std::string load_hopper();

}  // namespace jax_na::cuda
