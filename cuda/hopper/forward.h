// The forward pass on Hopper GPUs (sm_90a).
#pragma once

#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/hopper/plan.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// A compiled kernel. It takes HopperArguments by value.
struct HopperInstance {
  HopperLimits limits;
  const void* kernel;
  int threads;
  int shared_bytes;
  int line_columns;  // of a box of queries, keys and values
  int out_columns;   // of a box of results
};

// Those of an element type, defined where they are compiled.
template <typename T>
const std::vector<HopperInstance>& hopper_instances();

struct HopperChoice {
  const HopperInstance* instance = nullptr;
  HopperPlan plan;
  std::string refusal;  // why none, where instance is null
};

// The kernel and the plan for the problem on a device, with the predicted time in plan.clocks.
// Remembered, so that a repeated call costs a look-up.
HopperChoice choose_hopper(const Problem& problem, Stored stored, const Device& device);

// The kernel for a plan that is given: its rows, warpgroups, columns and phases. Remembered too.
HopperChoice adopt_hopper(const Problem& problem, Stored stored, const Device& device,
                          const HopperPlan& plan);

// The best plans in the order of what they are predicted to take, `most` at most; or why there are
// none.
std::vector<HopperChoice> rank_hopper(const Problem& problem, Stored stored, const Device& device,
                                      int most, std::string& refusal);

// Launches on `stream` without allocating or waiting; returns an empty text or what is wrong.
std::string launch_hopper(const HopperChoice& choice, const Forward& arguments,
                          cudaStream_t stream);

// Loads the kernels where the current device is a Hopper GPU.
std::string load_hopper();

}  // namespace jax_na::cuda
