// The fused implementation: which launches make up its passes.
#include <cuda_runtime_api.h>

#include <cmath>
#include <string>

#include "cuda/additional_gradient.h"
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

int64_t fused_backward_workspace(const Problem& problem) {
  return delta_bytes(problem) + align(additional_gradient_workspace(problem));
}

std::string fused_backward(const Backward& arguments, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  cudaError_t status = cudaSuccess;
  if (problem.bias_batch > 0) {
    status = cudaMemsetAsync(
        arguments.dbias, 0,
        problem.batch * problem.heads * problem.bias_size() * static_cast<int64_t>(sizeof(float)),
        stream);
    if (status != cudaSuccess) return cudaGetErrorString(status);
  }
  for (Pass pass : {Pass::kQueryGradient, Pass::kKeyGradient}) {
    const std::string error = dispatch(instances_of(pass, arguments.stored), pass, problem,
                                       arguments.precision, &arguments, stream);
    if (!error.empty()) return error;
  }
  if (problem.additional > 0) {
    auto* workspace = static_cast<char*>(arguments.workspace);
    status =
        additional_gradient(arguments, reinterpret_cast<const float*>(workspace),
                            reinterpret_cast<float*>(workspace + delta_bytes(problem)), stream);
    if (status != cudaSuccess) return cudaGetErrorString(status);
  }
  return "";
}

std::string load_kernels() {
  for (Stored stored : {Stored::kFloat32, Stored::kBFloat16, Stored::kFloat16}) {
    for (Pass pass : {Pass::kForward, Pass::kQueryGradient, Pass::kKeyGradient}) {
      const std::string error = load(instances_of(pass, stored));
      if (!error.empty()) return error;
    }
  }
  return load_hopper();
}

}  // namespace jax_na::cuda
