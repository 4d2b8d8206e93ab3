// Which launches make up the passes of the naive implementation.
#include "cuda/naive/naive.h"

#include <cuda_runtime_api.h>

#include "cuda/naive/passes.h"

namespace jax_na::cuda {
namespace {

using naive::Parts;

int64_t aligned(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// Of the bias's gradients there is a table for each run of queries.
struct Tables {
  Parts runs;
  int64_t entries;  // of one table
  int64_t bytes;

  Tables(const Problem& problem, Stored stored) {
    const int64_t tokens = problem.query_tokens(), heads = problem.batch * problem.heads;
    entries = problem.bias_batch > 0 ? heads * problem.bias_size() : 0;
    const int64_t real = naive::real_bytes(stored);
    runs =
        entries > 0 ? Parts::of(tokens, heads, entries * real) : Parts{1, static_cast<int>(tokens)};
    bytes = aligned(runs.count * entries * real);
  }
};

// Where in the workspace what lies, in bytes.
struct Workspace {
  Parts parts;  // of the queries, for the additional tokens
  int64_t delta = 0, tables, dkeys, dvalues, end;

  Workspace(const Problem& problem, Stored stored) {
    const int64_t real = naive::real_bytes(stored), tokens = problem.query_tokens();
    const int64_t more = problem.batch * problem.additional * problem.kv_heads;
    const int64_t more_bytes = more * (problem.head_dim + problem.value_dim) * real;
    parts = Parts::of(tokens, more, more_bytes);
    tables = aligned(tokens * problem.batch * problem.heads * real);
    dkeys = tables + Tables(problem, stored).bytes;
    dvalues = dkeys + aligned(parts.count * more * problem.head_dim * real);
    end = dvalues + aligned(parts.count * more * problem.value_dim * real);
  }
};

}  // namespace

int64_t naive_query_gradient_workspace(const Problem& problem, Stored stored) {
  return Tables(problem, stored).bytes;
}

std::string naive_query_gradient(const Backward& arguments, void* delta, void* workspace,
                                 cudaStream_t stream) {
  const Tables tables(arguments.problem, arguments.stored);
  if (tables.entries == 0)
    return naive::query_gradient(arguments, tables.runs, delta, workspace, stream);
  const cudaError_t status =
      cudaMemsetAsync(workspace, 0, static_cast<size_t>(tables.bytes), stream);
  if (status != cudaSuccess)
    return std::string("clearing the bias's sums: ") + cudaGetErrorString(status);
  const std::string error = naive::query_gradient(arguments, tables.runs, delta, workspace, stream);
  if (!error.empty()) return error;
  const Stored real = arguments.stored == Stored::kFloat64 ? Stored::kFloat64 : Stored::kFloat32;
  return naive::sum_parts(workspace, tables.runs.count, tables.entries, real, arguments.dbias,
                          stream);
}

int64_t naive_backward_workspace(const Problem& problem, Stored stored) {
  return Workspace(problem, stored).end;
}

std::string naive_backward(const Backward& arguments, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const Workspace at(problem, arguments.stored);
  auto* workspace = static_cast<char*>(arguments.workspace);
  void* delta = workspace + at.delta;
  void* dkeys = workspace + at.dkeys;
  void* dvalues = workspace + at.dvalues;
  std::string error = naive_query_gradient(arguments, delta, workspace + at.tables, stream);
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
  for (auto* load : {naive::load_forward, load_naive_query_gradient, naive::load_key_gradient}) {
    const std::string error = load();
    if (!error.empty()) return error;
  }
  return "";
}

std::string load_naive_query_gradient() {
  const std::string error = naive::load_query_gradient();
  return error.empty() ? naive::load_sum_parts() : error;
}

}  // namespace jax_na::cuda
