// The fused implementation: which launches make up its passes.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "cuda/additional_gradient.h"
#include "cuda/bias_sums.h"
#include "cuda/dispatch.h"
#include "cuda/hopper/forward.h"
#include "cuda/launch.h"

namespace jax_na::cuda {
namespace {

int64_t align(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

int64_t delta_bytes(const Problem& problem) {
  return align(problem.batch * problem.query_tokens() * problem.heads *
               static_cast<int64_t>(sizeof(float)));
}

struct ForwardChoice {
  HopperChoice hopper;
  Choice warps;  // of the kernels for every GPU
  bool is_hopper = false;
};

// The prediction of a kernel of warps, on the scale of those of the Hopper kernels: on an H100
// (2026-11-21) the times of plans that were measured are 0.9 to 1.6 of their predictions, and this
// factor chooses right between the two kernels where both were measured.
double hopper_clocks(const Choice& warps) {
  return 1.5 * warps.clocks;
}

ForwardChoice choose_forward(const Problem& problem, Stored stored, Precision precision) {
  ForwardChoice choice;
  choice.hopper = choose_hopper(problem, stored);
  choice.warps = choose(instances_of(Pass::kForward, stored), Pass::kForward, problem, precision);
  choice.is_hopper =
      choice.hopper.instance != nullptr &&
      (choice.warps.instance == nullptr || choice.hopper.plan.clocks < hopper_clocks(choice.warps));
  return choice;
}

}  // namespace

std::string fused_forward(const Forward& arguments, cudaStream_t stream) {
  const ForwardChoice choice =
      choose_forward(arguments.problem, arguments.stored, arguments.precision);
  if (choice.is_hopper) return launch_hopper(choice.hopper, arguments, stream);
  return dispatch(instances_of(Pass::kForward, arguments.stored), Pass::kForward, arguments.problem,
                  arguments.precision, &arguments, stream);
}

std::string explain_forward(const Problem& problem, Stored stored, Precision precision) {
  const ForwardChoice choice = choose_forward(problem, stored, precision);
  auto clocks = [](double count) { return std::to_string(std::llround(count)) + " clocks"; };
  const std::string hopper =
      choice.hopper.instance == nullptr
          ? "sm_90a: " + choice.hopper.refusal
          : "sm_90a: " + clocks(choice.hopper.plan.clocks) + ", " + str(choice.hopper.plan);
  const std::string warps =
      choice.warps.instance == nullptr
          ? "warps: no kernel fits"
          : "warps: " + clocks(hopper_clocks(choice.warps)) + ", " + str(choice.warps.sweep);
  return choice.is_hopper ? hopper + "\n  rather than " + warps
                          : warps + "\n  rather than " + hopper;
}

// First delta, then what one pass at a time needs.
int64_t fused_backward_workspace(const Problem& problem, bool deterministic) {
  const int64_t sums = problem.bias_batch > 0 ? bias_sums_bytes(problem) : 0;
  return delta_bytes(problem) + align(std::max(additional_gradient_workspace(problem), sums));
}

std::string fused_backward(const Backward& arguments, bool deterministic, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  auto* delta = static_cast<float*>(arguments.workspace);
  void* rest = static_cast<char*>(arguments.workspace) + delta_bytes(problem);
  auto run = [&](Pass pass, const Backward& of) {
    return dispatch(instances_of(pass, of.stored), pass, problem, of.precision, &of, stream);
  };
  auto text = [](cudaError_t status) -> std::string {
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
  };
  std::string error;
  if (problem.bias_batch > 0) {
    Backward with_sums = arguments;
    with_sums.dbias = rest;
    error = text(begin_bias_sums(arguments, rest, stream));
    if (error.empty()) error = run(Pass::kQueryGradient, with_sums);
    if (error.empty()) error = text(finish_bias_sums(arguments, rest, stream));
  } else {
    error = run(Pass::kQueryGradient, arguments);
  }
  if (error.empty()) error = run(Pass::kKeyGradient, arguments);
  if (error.empty() && problem.additional > 0)
    error = text(additional_gradient(arguments, delta, static_cast<float*>(rest), stream));
  return error;
}

std::string load_kernels() {
  for (Stored stored : {Stored::kFloat32, Stored::kBFloat16, Stored::kFloat16}) {
    for (Pass pass : {Pass::kForward, Pass::kQueryGradient, Pass::kKeyGradient}) {
      const std::string error = load(instances_of(pass, stored));
      if (!error.empty()) return error;
    }
  }
  if (const cudaError_t status = load_bias_sums(); status != cudaSuccess)
    return std::string("loading a CUDA kernel: ") + cudaGetErrorString(status);
  return load_hopper();
}

}  // namespace jax_na::cuda
