#include "cuda/backward_choice.h"

#include <cmath>

namespace jax_na::cuda {
namespace {

// Chose the faster kernels where both were measured.
double factor_of(const Problem& problem) {
  return problem.head_dim > 64 ? 1.5 : problem.head_dim > 32 ? 1.8 : 1.2;
}

// What the gradients of additional keys take at least beside the kernels of warps: four products of
// each feature of a query with each key, of which a multiprocessor makes 128 a clock.
double additional_clocks(const Problem& problem, const Device& device) {
  const double rows = static_cast<double>(problem.query_rows());
  return rows * problem.additional * 4 * problem.head_dim / (128.0 * device.multiprocessors);
}

// The prediction of the kernels of warps, on the scale of those of the Hopper kernels.
double hopper_clocks(const BackwardChoice& choice) {
  return choice.warps_factor * (choice.query_gradient.clocks + choice.key_gradient.clocks) +
         choice.additional_clocks;
}

bool has_warps(const BackwardChoice& choice) {
  return choice.query_gradient.instance != nullptr && choice.key_gradient.instance != nullptr;
}

std::string clocks(double count) {
  return std::to_string(std::llround(count)) + " clocks, ";
}

}  // namespace

BackwardChoice choose_backward(const Problem& problem, Stored stored, Precision precision,
                               const Device& device, bool deterministic) {
  BackwardChoice choice;
  choice.warps_factor = factor_of(problem);
  choice.additional_clocks = additional_clocks(problem, device);
  auto warps = [&](Pass pass) {
    return choose(instances_of(pass, stored), pass, problem, precision, device);
  };
  choice.query_gradient = warps(Pass::kQueryGradient);
  choice.key_gradient = warps(Pass::kKeyGradient);
  choice.hopper = choose_hopper_pair(problem, stored, device);
  if (!deterministic) {
    const HopperBackwardChoice sums = choose_hopper_backward(problem, stored, device);
    const bool pair = choice.hopper.instance != nullptr &&
                      (sums.instance == nullptr || choice.hopper.plan.clocks < sums.plan.clocks);
    if (!pair) choice.hopper = sums;
  }
  choice.is_hopper = choice.hopper.instance != nullptr &&
                     (!has_warps(choice) || choice.hopper.plan.clocks < hopper_clocks(choice));
  return choice;
}

std::string explain(const BackwardChoice& choice) {
  std::string hopper =
      "sm_90a: " + (choice.hopper.instance == nullptr
                        ? choice.hopper.refusal
                        : clocks(choice.hopper.plan.clocks) + str(choice.hopper.plan));
  if (choice.hopper.pair()) hopper += ", and " + str(choice.hopper.queries.plan);
  const std::string warps =
      "warps: " + (has_warps(choice)
                       ? clocks(hopper_clocks(choice)) + str(choice.query_gradient.sweep) +
                             ", and " + str(choice.key_gradient.sweep)
                       : std::string("no kernel fits"));
  return choice.is_hopper ? hopper + "\n  rather than " + warps
                          : warps + "\n  rather than " + hopper;
}

}  // namespace jax_na::cuda
