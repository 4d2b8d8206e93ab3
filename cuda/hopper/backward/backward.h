// The backward pass on Hopper GPUs (sm_90a).
#pragma once

#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/hopper/backward/plan.h"
#include "cuda/hopper/forward.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// A compiled kernel. It takes HopperBackwardArguments by value.
struct HopperBackwardInstance {
  HopperLimits limits;
  const void* kernel;
  int threads;
  int shared_bytes;
  int line_columns;  // of a box of keys, values, queries or cotangents
  int out_columns;   // of a box of gradients of keys or values
};

// Those of an element type, defined where they are compiled.
template <typename T>
const std::vector<HopperBackwardInstance>& hopper_backward_instances();
// Those that leave out the gradient of the queries.
template <typename T>
const std::vector<HopperBackwardInstance>& hopper_key_gradient_instances();

struct HopperBackwardChoice {
  const HopperBackwardInstance* instance = nullptr;
  HopperBackwardPlan plan;
  HopperChoice queries;  // the kernel for their gradient, where the main one leaves that out
  std::string refusal;   // why none, where instance is null

  bool pair() const { return queries.instance != nullptr; }
};

// The kernel and the plan for the problem on the current device, with the predicted time of the
// whole pass in plan.clocks. Remembered, so that a repeated call costs a look-up.
HopperBackwardChoice choose_hopper_backward(const Problem& problem, Stored stored,
                                            const Device& device);

// The same of a pair of kernels, one for the keys and values and one for the queries, which make no
// sums in memory: runs agree to the bit.
HopperBackwardChoice choose_hopper_pair(const Problem& problem, Stored stored,
                                        const Device& device);

// What a launch on a Hopper GPU needs of a workspace, in bytes; 0 where the kernels do not run the
// problem.
int64_t hopper_backward_workspace(const Problem& problem, Stored stored);
int64_t hopper_pair_workspace(const Problem& problem, Stored stored);

// Launches on `stream` without allocating or waiting; returns an empty text or what is wrong.
std::string launch_hopper_backward(const HopperBackwardChoice& choice, const Backward& arguments,
                                   cudaStream_t stream);

// Loads the kernels where the current device is a Hopper GPU.
std::string load_hopper_backward();

}  // namespace jax_na::cuda
