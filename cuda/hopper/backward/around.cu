#include "cuda/hopper/backward/around.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "cuda/hopper/backward/sums.h"
#include "cuda/ptx/launch.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;  // features: 16 bytes

// A thread's place: the features from 8 * chunk on of row `row`, and of the same head and token
// where heads come before tokens.
struct Place {
  int64_t row;
  int64_t by_head;
  int chunk;
};

__device__ __forceinline__ bool find_place(const Problem& problem, int chunks, Place& place) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t tokens = problem.query_tokens();
  place.row = index / chunks;
  place.chunk = static_cast<int>(index - place.row * chunks);
  const int64_t token = place.row / problem.heads;
  const int head = static_cast<int>(place.row - token * problem.heads);
  const int64_t entry = token / tokens;
  place.by_head = (entry * problem.heads + head) * tokens + (token - entry * tokens);
  return entry < problem.batch;
}

// kChunks lanes for each row, a power of two.
template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads)
    statistics_kernel(const __grid_constant__ Backward arguments, float2* statistics) {
  Place place;
  const bool exists = find_place(arguments.problem, kChunks, place);
  float sum = 0.f;
  if (exists) {
    const int64_t at = place.row * kChunks + place.chunk;
    const uint4 a = static_cast<const uint4*>(arguments.out)[at];
    const uint4 b = static_cast<const uint4*>(arguments.dout)[at];
    sum = dot<T>(a.x, b.x) + dot<T>(a.y, b.y) + dot<T>(a.z, b.z) + dot<T>(a.w, b.w);
  }
#pragma unroll
  for (int step = kChunks / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (!exists || place.chunk != 0) return;
  const float lse = static_cast<const float*>(arguments.lse)[place.row];
  statistics[place.by_head] =
      make_float2(lse == -INFINITY ? INFINITY : lse * 1.4426950408889634f,
                  sum - static_cast<const float*>(arguments.dlse)[place.row]);
}

template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads)
    rounding_kernel(const __grid_constant__ Backward arguments, const float* sums) {
  Place place;
  if (!find_place(arguments.problem, kChunks, place)) return;
  const float* from = sums + place.by_head * (kChunks * kPerThread);
  const float scale = static_cast<float>(arguments.problem.scale);
  uint32_t words[kPerThread / 2];
#pragma unroll
  for (int i = 0; i < kPerThread / 2; ++i) {
    const float2 pair =
        *reinterpret_cast<const float2*>(from + sum_place(kPerThread * place.chunk + 2 * i));
    words[i] = pack(pair.x * scale, pair.y * scale, T());
  }
  static_cast<uint4*>(arguments.dquery)[place.row * kChunks + place.chunk] =
      make_uint4(words[0], words[1], words[2], words[3]);
}

template <typename T, int kChunks, typename Launch>
cudaError_t with(Launch launch) {
  return launch(statistics_kernel<T, kChunks>, rounding_kernel<T, kChunks>);
}

// Calls `launch` with the kernels of the problem.
template <typename Launch>
cudaError_t with_kernels(const Backward& arguments, Launch launch) {
  const bool half = arguments.stored == Stored::kFloat16;
  switch (arguments.problem.head_dim) {
    case 64:
      return half ? with<__half, 8>(launch) : with<__nv_bfloat16, 8>(launch);
    case 128:
      return half ? with<__half, 16>(launch) : with<__nv_bfloat16, 16>(launch);
    default:
      return cudaErrorInvalidValue;
  }
}

dim3 grid_of(const Problem& problem) {
  const int64_t chunks =
      problem.batch * problem.query_tokens() * problem.heads * (problem.head_dim / kPerThread);
  return dim3(static_cast<unsigned>((chunks + kThreads - 1) / kThreads));
}

}  // namespace

cudaError_t launch_statistics(const Backward& arguments, float2* statistics, cudaStream_t stream) {
  return with_kernels(arguments, [&](auto kernel, auto) {
    return ptx::launch(kernel, grid_of(arguments.problem), dim3(kThreads), 0, stream, arguments,
                       statistics);
  });
}

cudaError_t launch_rounding(const Backward& arguments, const float* sums, cudaStream_t stream) {
  return with_kernels(arguments, [&](auto, auto kernel) {
    return ptx::launch(kernel, grid_of(arguments.problem), dim3(kThreads), 0, stream, arguments,
                       sums);
  });
}

}  // namespace jax_na::cuda
