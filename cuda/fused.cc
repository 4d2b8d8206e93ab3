// The fused implementation: which launches make up its passes.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>

#include "cuda/additional_gradient.h"
#include "cuda/dispatch.h"
#include "cuda/hopper/forward.h"
#include "cuda/launch.h"
#include "cuda/naive/naive.h"

namespace jax_na::cuda {
namespace {

int64_t align(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

int64_t delta_bytes(const Problem& problem) {
  return align(problem.batch * problem.query_tokens() * problem.heads *
               static_cast<int64_t>(sizeof(float)));
}

// The fused kernel adds the gradient of the bias up by atomics, in any order; the naive one adds
// parts up in order, and finds everything else that the fused one would.
bool is_naive(const Problem& problem, bool deterministic) {
  return deterministic && problem.bias_batch > 0;
}

}  // namespace

// First delta, then what one pass at a time needs.
int64_t fused_backward_workspace(const Problem& problem, bool deterministic) {
  const int64_t tables = is_naive(problem, deterministic)
                             ? naive_query_gradient_workspace(problem, Stored::kFloat32)
                             : 0;
  return delta_bytes(problem) + align(std::max(additional_gradient_workspace(problem), tables));
}

std::string fused_backward(const Backward& arguments, bool deterministic, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  auto* delta = static_cast<float*>(arguments.workspace);
  char* rest = static_cast<char*>(arguments.workspace) + delta_bytes(problem);
  auto run = [&](Pass pass) {
    return dispatch(instances_of(pass, arguments.stored), pass, problem, arguments.precision,
                    &arguments, stream);
  };
  std::string error;
  if (is_naive(problem, deterministic)) {
    error = naive_query_gradient(arguments, delta, rest, stream);
  } else {
    if (problem.bias_batch > 0) {
      const cudaError_t status = cudaMemsetAsync(
          arguments.dbias, 0,
          problem.batch * problem.heads * problem.bias_size() * static_cast<int64_t>(sizeof(float)),
          stream);
      if (status != cudaSuccess) return cudaGetErrorString(status);
    }
    error = run(Pass::kQueryGradient);
  }
  if (error.empty()) error = run(Pass::kKeyGradient);
  if (!error.empty() || problem.additional == 0) return error;
  const cudaError_t status =
      additional_gradient(arguments, delta, reinterpret_cast<float*>(rest), stream);
  return status == cudaSuccess ? "" : cudaGetErrorString(status);
}

std::string load_kernels() {
  for (Stored stored : {Stored::kFloat32, Stored::kBFloat16, Stored::kFloat16}) {
    for (Pass pass : {Pass::kForward, Pass::kQueryGradient, Pass::kKeyGradient}) {
      const std::string error = load(instances_of(pass, stored));
      if (!error.empty()) return error;
    }
  }
  const std::string error = load_naive_query_gradient();
  return error.empty() ? load_hopper() : error;
}

}  // namespace jax_na::cuda
