// The softmax of rows of slots, and its derivative. A warp goes through the heads of a token.
#include "cuda/gemm/softmax.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "cuda/gemm/by_type.h"
#include "cuda/gemm/row_work.h"
#include "cuda/ptx/launch.h"
#include "cuda/ptx/math.h"
#include "cuda/tile/element.h"
#include "cuda/tile/softmax.h"

namespace jax_na::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kAhead = 4;  // slots that a lane reads at a time

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// Calls change(slot, values) for the visible slots of a row, which replaces the floats of kTensors
// rows by elements of T in the same place: `values` are read before any element is written over
// them, since the elements of later slots lie behind those of earlier ones.
template <typename T, int kTensors, typename Change>
__device__ __forceinline__ void replace(float* const (&rows)[kTensors], int slots, int lane,
                                        const VisibleSlots& visible, Change change) {
  for (int begin = 0; begin < slots; begin += 32 * kAhead) {
    float values[kAhead][kTensors];
    bool seen[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int slot = begin + 32 * i + lane;
      seen[i] = slot < slots && visible.holds(slot);
#pragma unroll
      for (int k = 0; k < kTensors; ++k) values[i][k] = seen[i] ? rows[k][slot] : 0.f;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (!seen[i]) continue;
      change(begin + 32 * i + lane, values[i]);
#pragma unroll
      for (int k = 0; k < kTensors; ++k)
        reinterpret_cast<T*>(rows[k])[begin + 32 * i + lane] = T(values[i][k]);
    }
  }
}

// Grid: tokens of all batch entries, kWarps to a CTA.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    softmax_kernel(const __grid_constant__ WindowRows rows, float* scores, float* lse) {
  const Problem& problem = rows.problem;
  const int lane = threadIdx.x % 32;
  const int64_t tokens = problem.query_tokens();
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= problem.batch * tokens) return;
  const VisibleSlots visible(rows, static_cast<int>(token % tokens), lane);
  for (int head = 0; head < problem.heads; ++head) {
    const int64_t row = token * problem.heads + head;
    float* const own = scores + row * rows.slots;
    // In units of log2, a lane's own.
    float highest = -INFINITY, sum = 0.f;
#pragma unroll 4
    for (int slot = lane; slot < rows.slots; slot += 32) {
      if (!visible.holds(slot)) continue;
      const float score = __fmul_rn(own[slot], kLog2E);
      const float before = highest;
      highest = fmaxf(highest, score);
      if (highest > -INFINITY) sum = sum * ptx::exp2(before - highest) + ptx::exp2(score - highest);
    }
    float all = highest;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) all = fmaxf(all, __shfl_xor_sync(~0u, all, step));
    sum = warp_sum(highest > -INFINITY ? sum * ptx::exp2(highest - all) : 0.f);
    const float log_sum = sum > 0.f ? all + log2f(sum) : -INFINITY;
    if (lane == 0) lse[row] = log_sum * kLn2;
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    replace<T, 1>({own}, rows.slots, lane, visible, [&](int, float (&value)[1]) {
      // Rounded as it was for the sum: of large scores a fused product would be another number.
      value[0] = sum > 0.f ? ptx::exp2(__fmul_rn(value[0], kLog2E) - all) * inverse : 0.f;
    });
  }
}

// Grid as above.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    softmax_gradient_kernel(const __grid_constant__ WindowRows rows, const float* lse,
                            const float* dlse, float* scores, float* dweights, float* delta,
                            float* unrounded) {
  const Problem& problem = rows.problem;
  const int lane = threadIdx.x % 32;
  const int64_t tokens = problem.query_tokens();
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (token >= problem.batch * tokens) return;
  const VisibleSlots visible(rows, static_cast<int>(token % tokens), lane);
  for (int head = 0; head < problem.heads; ++head) {
    const int64_t row = token * problem.heads + head;
    float* const own = scores + row * rows.slots;
    float* const down = dweights + row * rows.slots;
    // A row that sees nothing has no weights.
    const float log_sum = lse[row] == -INFINITY ? INFINITY : lse[row] * kLog2E;
    auto weight_of = [&](float score) {
      // It is 1 at most, whatever the rounding of large scores.
      const float exponent = fmaf(score, kLog2E, -log_sum);
      return ptx::exp2(exponent > 0.f ? 0.f : exponent);
    };
    // The sum of dout * out, from weights that are not rounded yet, as those of `out` were.
    float product = 0.f;
#pragma unroll 2
    for (int slot = lane; slot < rows.slots; slot += 32)
      if (visible.holds(slot)) product = fmaf(weight_of(own[slot]), down[slot], product);
    const float of_row = warp_sum(product) - dlse[row];
    if (lane == 0) delta[row] = of_row;
    replace<T, 2>({own, down}, rows.slots, lane, visible, [&](int slot, float (&value)[2]) {
      value[0] = weight_of(value[0]);
      value[1] = value[0] * (value[1] - of_row);
      if (unrounded) unrounded[row * rows.slots + slot] = value[1];
    });
  }
}

dim3 grid_of(const Problem& problem) {
  return dim3(
      static_cast<unsigned>((problem.batch * problem.query_tokens() + kWarps - 1) / kWarps));
}

}  // namespace

cudaError_t softmax(const Forward& arguments, float* scores, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const WindowRows rows(problem, arguments.origins);
  return by_type(arguments.stored, [&](auto element) {
    using T = decltype(element);
    return ptx::launch(softmax_kernel<T>, grid_of(problem), dim3(32 * kWarps), 0, stream, rows,
                       scores, static_cast<float*>(arguments.lse));
  });
}

cudaError_t softmax_gradient(const Backward& arguments, float* scores, float* dweights,
                             float* delta, float* unrounded, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const WindowRows rows(problem, arguments.origins);
  return by_type(arguments.stored, [&](auto element) {
    using T = decltype(element);
    return ptx::launch(softmax_gradient_kernel<T>, grid_of(problem), dim3(32 * kWarps), 0, stream,
                       rows, static_cast<const float*>(arguments.lse),
                       static_cast<const float*>(arguments.dlse), scores, dweights, delta,
                       unrounded);
  });
}

cudaError_t load_softmax() {
  for (Stored stored : {Stored::kFloat32, Stored::kBFloat16, Stored::kFloat16}) {
    const cudaError_t status = by_type(stored, [](auto element) {
      using T = decltype(element);
      cudaFuncAttributes attributes;
      const cudaError_t first =
          cudaFuncGetAttributes(&attributes, ptx::address_of(&softmax_kernel<T>));
      if (first != cudaSuccess) return first;
      return cudaFuncGetAttributes(&attributes, ptx::address_of(&softmax_gradient_kernel<T>));
    });
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace jax_na::cuda
