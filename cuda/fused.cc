// The fused implementation: which launches make up its passes.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>

#include "cuda/additional_gradient.h"
#include "cuda/backward_choice.h"
#include "cuda/bias_sums.h"
#include "cuda/dispatch.h"
#include "cuda/hopper/backward/backward.h"
#include "cuda/hopper/forward.h"
#include "cuda/launch.h"
#include "cuda/workspace.h"

namespace jax_na::cuda {
namespace {

// Of delta, and of the LSE in units of log2.
int64_t rows_bytes(const Problem& problem) {
  return align_workspace(2 * problem.query_rows() * static_cast<int64_t>(sizeof(float)));
}

}  // namespace

// Of the kernels for every GPU first what there is of every row, then what one pass at a time
// needs. Which kernels run is known only where the device is.
int64_t fused_backward_workspace(const Problem& problem, Stored stored, bool deterministic) {
  const int64_t sums = problem.bias_batch > 0 ? bias_sums_bytes(problem) : 0;
  const int64_t warps =
      rows_bytes(problem) + align_workspace(std::max(additional_gradient_workspace(problem), sums));
  const int64_t same_bits = std::max(warps, hopper_pair_workspace(problem, stored));
  return deterministic ? same_bits
                       : std::max(same_bits, hopper_backward_workspace(problem, stored));
}

std::string fused_backward(const Backward& arguments, bool deterministic, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  Device device;
  if (const cudaError_t status = current_device(device); status != cudaSuccess)
    return cudaGetErrorString(status);
  const BackwardChoice choice =
      choose_backward(problem, arguments.stored, arguments.precision, device, deterministic);
  if (choice.is_hopper) return launch_hopper_backward(choice.hopper, arguments, stream);
  auto* delta = static_cast<float*>(arguments.workspace);
  void* rest = static_cast<char*>(arguments.workspace) + rows_bytes(problem);
  auto run = [&](Pass pass, const Backward& of) {
    const bool queries = pass == Pass::kQueryGradient;
    return launch(queries ? choice.query_gradient : choice.key_gradient, pass, problem, &of,
                  stream);
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
  if (error.empty()) {
    Backward of_keys = arguments;
    of_keys.lse = delta + problem.query_rows();
    error = run(Pass::kKeyGradient, of_keys);
  }
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
  const std::string error = load_hopper();
  return error.empty() ? load_hopper_backward() : error;
}

}  // namespace jax_na::cuda
