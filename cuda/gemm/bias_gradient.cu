// The gradient of the relative position bias: for each of its entries, the sum of the cotangents of
// the scores that it was added to. Every entry is one thread's in each of a CTA's warps, which
// share the tokens; their sums are added in order, so that the result is the same in every run.
#include "cuda/gemm/row_work.h"
#include "cuda/gemm/softmax.h"
#include "cuda/ptx/launch.h"

namespace jax_na::cuda {
namespace {

constexpr int kWarps = 32;
constexpr int kTokens = 512;  // of a batch entry, known at a time

// A query, in terms of bias indices.
struct BiasRow {
  Interval visible[kMaxRank];
  int slot;  // slot number = slot number of the indices, as if they were slots, plus this
};

// Grid: 32 entries each, of all heads of all batch entries.
__global__ void __launch_bounds__(32 * kWarps)
    bias_gradient_kernel(const __grid_constant__ WindowRows rows, const float* dscores,
                         float* dbias, const FastDiv parts) {
  __shared__ BiasRow known[kTokens];
  __shared__ float sums[kWarps][32];
  const Problem& problem = rows.problem;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int which = blockIdx.x;  // head of a batch entry
  const int entry_of_bias = 32 * parts.split(which) + lane;
  const int size = static_cast<int>(problem.bias_size());
  const int64_t tokens = problem.query_tokens();
  const float* own =
      dscores +
      (which / problem.heads * tokens * problem.heads + which % problem.heads) * rows.slots;

  int at[kMaxRank], rest = entry_of_bias;
#pragma unroll
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const int width = 2 * problem.axes[a].window - 1;
    at[a] = rest % width;
    rest /= width;
  }
  const int number = slot_number(problem, at);

  float sum = 0.f;
  for (int64_t begin = 0; begin < tokens; begin += kTokens) {
    const int count = static_cast<int>(min(tokens - begin, int64_t{kTokens}));
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      int origin[kMaxRank];
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        const AxisRow row = axis_row(rows, a, static_cast<int>(begin) + i);
        known[i].visible[a] = {row.visible.begin + row.bias, row.visible.end + row.bias};
        origin[a] = -row.bias;
      }
      known[i].slot = slot_number(problem, origin);
    }
    __syncthreads();
    if (entry_of_bias >= size) continue;
#pragma unroll 4
    for (int i = warp; i < count; i += kWarps) {
      const BiasRow& row = known[i];
      bool sees = true;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a)
        sees = sees && row.visible[a].begin <= at[a] && at[a] < row.visible[a].end;
      if (sees) sum += own[(begin + i) * problem.heads * rows.slots + (number + row.slot)];
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || entry_of_bias >= size) return;
  for (int i = 1; i < kWarps; ++i) sum += sums[i][lane];
  dbias[static_cast<int64_t>(which) * size + entry_of_bias] = sum;
}

}  // namespace

cudaError_t bias_gradient(const Backward& arguments, const float* dscores, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const WindowRows rows(problem, arguments.origins);
  const int64_t parts = (problem.bias_size() + 31) / 32;
  const int64_t ctas = parts * problem.batch * problem.heads;
  if (ctas > INT32_MAX) return cudaErrorInvalidValue;
  return ptx::launch(bias_gradient_kernel, dim3(static_cast<unsigned>(ctas)), dim3(32 * kWarps), 0,
                     stream, rows, dscores, static_cast<float*>(arguments.dbias),
                     FastDiv(static_cast<int>(parts)));
}

cudaError_t load_bias_gradient() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, ptx::address_of(&bias_gradient_kernel));
}

}  // namespace jax_na::cuda
