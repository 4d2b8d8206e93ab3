// Which launches make up the passes of the naive implementation.
#include "cuda/naive/naive.h"

#include <cuda_runtime_api.h>

#include "cuda/naive/passes.h"
#include "cuda/workspace.h"

namespace jax_na::cuda {
namespace {

using naive::Parts;

// Where in the workspace what lies, in bytes.
struct Workspace {
  Parts runs;   // of the queries, of which a group has a table of the bias
  Parts parts;  // of the queries, for the additional tokens
  int64_t delta = 0, tables, dkeys, dvalues, end;

  Workspace(const Problem& problem, Stored stored) {
    const int64_t real = naive::real_bytes(stored), tokens = problem.query_tokens();
    const int64_t heads = problem.batch * problem.heads;
    const int64_t bias = problem.bias_batch > 0 ? heads * problem.bias_size() : 0;
    const int64_t more = problem.batch * problem.additional * problem.kv_heads;
    const int64_t more_bytes = more * (problem.head_dim + problem.value_dim) * real;
    runs = bias > 0 ? Parts::of(tokens, heads, bias * real) : Parts{1, static_cast<int>(tokens)};
    parts = Parts::of(tokens, more, more_bytes);
    tables = align_workspace(tokens * heads * real);
    dkeys = tables + align_workspace(runs.count * bias * real);
    dvalues = dkeys + align_workspace(parts.count * more * problem.head_dim * real);
    end = dvalues + align_workspace(parts.count * more * problem.value_dim * real);
  }
};

}  // namespace

int64_t naive_backward_workspace(const Problem& problem, Stored stored) {
  return Workspace(problem, stored).end;
}

std::string naive_backward(const Backward& arguments, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const Workspace at(problem, arguments.stored);
  auto* workspace = static_cast<char*>(arguments.workspace);
  void* delta = workspace + at.delta;
  void* tables = workspace + at.tables;
  void* dkeys = workspace + at.dkeys;
  void* dvalues = workspace + at.dvalues;
  if (problem.bias_batch > 0) {
    const cudaError_t status =
        cudaMemsetAsync(tables, 0, static_cast<size_t>(at.dkeys - at.tables), stream);
    if (status != cudaSuccess)
      return std::string("clearing the bias's sums: ") + cudaGetErrorString(status);
  }
  std::string error = naive::query_gradient(arguments, at.runs, delta, tables, stream);
  if (error.empty() && problem.bias_batch > 0) {
    const Stored real = arguments.stored == Stored::kFloat64 ? Stored::kFloat64 : Stored::kFloat32;
    error =
        naive::sum_parts(tables, at.runs.count, problem.batch * problem.heads * problem.bias_size(),
                         real, arguments.dbias, stream);
  }
  if (error.empty()) error = naive::key_gradient(arguments, delta, stream);
  if (!error.empty() || problem.additional == 0) return error;
  const int64_t more = problem.batch * problem.additional * problem.kv_heads;
  error = naive::additional_gradient(arguments, at.parts, delta, dkeys, dvalues, stream);
  if (error.empty())
    error = naive::sum_parts(dkeys, at.parts.count, more * problem.head_dim, arguments.stored,
                             arguments.dadditional_keys, stream);
  if (error.empty())
    error = naive::sum_parts(dvalues, at.parts.count, more * problem.value_dim, arguments.stored,
                             arguments.dadditional_values, stream);
  return error;
}

std::string load_naive_kernels() {
  for (auto* load : {naive::load_forward, naive::load_query_gradient, naive::load_key_gradient,
                     naive::load_sum_parts}) {
    const std::string error = load();
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace jax_na::cuda
