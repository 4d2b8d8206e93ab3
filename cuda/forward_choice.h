// Which kernel runs the fused forward pass, how it cuts the problem, and what it is preferred to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/hopper/plan.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// A way to run the forward pass: the Hopper kernel with a plan (of which rows, warpgroups, keys and
// phases say it all) or the kernels for every GPU, which plan for themselves.
struct ForwardPlan {
  bool hopper = false;
  HopperPlan plan;
  double clocks = 0;  // predicted, of one multiprocessor
  std::string text;   // the plan, to be printed
};

struct ForwardPlans {
  std::vector<ForwardPlan> ranked;      // the best one first
  std::string refusal, hopper_refusal;  // why there is none for every GPU, or on Hopper GPUs
};

// A plan as numbers: 1 and the extents of queries, warpgroups, keys and phases along the axes, or 0
// and as many that are not read. False where they are none.
constexpr int kPlanNumbers = 1 + 4 * kMaxRank;
bool read_plan(const int64_t* numbers, size_t count, ForwardPlan& plan);
std::vector<int64_t> numbers_of(const ForwardPlan& plan);

// Up to `most` of the Hopper kernel, and the one of the kernels for every GPU.
ForwardPlans forward_plans(const Problem& problem, Stored stored, Precision precision,
                           const Device& device, int most);

// Completes a plan that is asked for; returns an empty text, or why it is illegal.
std::string complete_forward_plan(const Problem& problem, Stored stored, Precision precision,
                                  const Device& device, ForwardPlan& plan);

// fused_forward by a plan that is asked for.
std::string planned_forward(const Forward& arguments, const ForwardPlan& plan, cudaStream_t stream);

}  // namespace jax_na::cuda
