// The fused implementation: which launches make up its passes.
#include <cuda_runtime_api.h>

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

}  // namespace

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
