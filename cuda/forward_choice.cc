#include "cuda/forward_choice.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <iterator>

#include "cuda/dispatch.h"
#include "cuda/hopper/forward.h"

namespace jax_na::cuda {
namespace {

// The prediction of a kernel of warps, on the scale of those of the Hopper kernels: with a launch,
// and by a factor that chooses the faster kernel in all real problems where both were measured on
// an H100 (2026-11-21). The times are 0.7 to 2 of these predictions, and less where a warp meets
// one tile.
double hopper_clocks(const Choice& warps) {
  constexpr double kLaunch = 12800, kFactor = 1.07, kFactorOfOneTile = 0.86;
  return (warps.instance->limits.one_tile ? kFactorOfOneTile : kFactor) * (warps.clocks + kLaunch);
}

Choice choose_warps(const Problem& problem, Stored stored, Precision precision,
                    const Device& device) {
  return choose(instances_of(Pass::kForward, stored), Pass::kForward, problem, precision, device);
}

ForwardPlan described(const HopperChoice& choice) {
  return {true, choice.plan, choice.plan.clocks, str(choice.plan)};
}

ForwardPlan described(const Choice& warps) {
  return {false, {}, hopper_clocks(warps), str(warps.sweep)};
}

constexpr char kNothingFits[] = "no kernel fits the problem into the GPU's shared memory";

}  // namespace

bool read_plan(const int64_t* numbers, size_t count, ForwardPlan& plan) {
  if (count != kPlanNumbers) return false;
  plan.hopper = *numbers++ != 0;
  for (auto* extents :
       {&plan.plan.rows, &plan.plan.warpgroups, &plan.plan.columns, &plan.plan.phases})
    for (int& extent : *extents)
      extent = static_cast<int>(std::clamp<int64_t>(*numbers++, INT32_MIN, INT32_MAX));
  return true;
}

std::vector<int64_t> numbers_of(const ForwardPlan& plan) {
  std::vector<int64_t> numbers = {plan.hopper};
  for (const auto* extents :
       {&plan.plan.rows, &plan.plan.warpgroups, &plan.plan.columns, &plan.plan.phases})
    numbers.insert(numbers.end(), std::begin(*extents), std::end(*extents));
  return numbers;
}

ForwardPlans forward_plans(const Problem& problem, Stored stored, Precision precision,
                           const Device& device, int most) {
  ForwardPlans plans;
  for (const HopperChoice& choice :
       rank_hopper(problem, stored, device, most, plans.hopper_refusal))
    plans.ranked.push_back(described(choice));
  const Choice warps = choose_warps(problem, stored, precision, device);
  if (warps.instance != nullptr) {
    const ForwardPlan plan = described(warps);
    plans.ranked.insert(
        std::find_if(plans.ranked.begin(), plans.ranked.end(),
                     [&](const ForwardPlan& other) { return plan.clocks <= other.clocks; }),
        plan);
  } else {
    plans.refusal = kNothingFits;
  }
  return plans;
}

std::string complete_forward_plan(const Problem& problem, Stored stored, Precision precision,
                                  const Device& device, ForwardPlan& plan) {
  if (plan.hopper) {
    const HopperChoice choice = adopt_hopper(problem, stored, device, plan.plan);
    if (choice.instance == nullptr) return choice.refusal;
    plan = described(choice);
  } else {
    const Choice warps = choose_warps(problem, stored, precision, device);
    if (warps.instance == nullptr) return kNothingFits;
    plan = described(warps);
  }
  return "";
}

std::string planned_forward(const Forward& arguments, const ForwardPlan& plan,
                            cudaStream_t stream) {
  if (!plan.hopper)
    return dispatch(instances_of(Pass::kForward, arguments.stored), Pass::kForward,
                    arguments.problem, arguments.precision, &arguments, stream);
  Device device;
  const cudaError_t status = current_device(device);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  const HopperChoice choice = adopt_hopper(arguments.problem, arguments.stored, device, plan.plan);
  if (choice.instance == nullptr) return "plan: " + choice.refusal;
  return launch_hopper(choice, arguments, stream);
}

std::string fused_forward(const Forward& arguments, cudaStream_t stream) {
  Device device;
  const cudaError_t status = current_device(device);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  const HopperChoice hopper = choose_hopper(arguments.problem, arguments.stored, device);
  const Choice warps =
      choose_warps(arguments.problem, arguments.stored, arguments.precision, device);
  if (hopper.instance != nullptr &&
      (warps.instance == nullptr || hopper.plan.clocks < hopper_clocks(warps)))
    return launch_hopper(hopper, arguments, stream);
  return launch(warps, Pass::kForward, arguments.problem, &arguments, stream);
}

}  // namespace jax_na::cuda
