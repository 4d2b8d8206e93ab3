// The gradients of additional keys and values, which every query sees: sums over all queries, cut
// into parts that a second kernel adds up in order.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/additional_gradient.h"
#include "cuda/ptx/launch.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMostFeatures = 256;
constexpr int kPerLane = kMostFeatures / 32;

// Grid: additional tokens, key heads, batch entries times parts. A warp goes from query to query
// and keeps the token's gradients in registers, features spread over lanes.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    partial_sums(const __grid_constant__ Backward arguments, const float* delta, float* sums,
                 const int parts) {
  const Problem& problem = arguments.problem;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int token = blockIdx.x, kv_head = blockIdx.y, part = blockIdx.z % parts;
  const int64_t entry = blockIdx.z / parts;
  const int64_t tokens = problem.query_tokens();
  const int head_dim = problem.head_dim, value_dim = problem.value_dim;
  const int64_t own = (entry * problem.additional + token) * problem.kv_heads + kv_head;
  const T* key = static_cast<const T*>(arguments.additional_keys) + own * head_dim;
  const T* value = static_cast<const T*>(arguments.additional_values) + own * value_dim;

  float keys[kPerLane], values[kPerLane], dkeys[kPerLane] = {}, dvalues[kPerLane] = {};
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int feature = 32 * i + lane;
    keys[i] = feature < head_dim ? to_float(key[feature]) : 0.f;
    values[i] = feature < value_dim ? to_float(value[feature]) : 0.f;
  }
  const int64_t begin = tokens * part / parts, end = tokens * (part + 1) / parts;
  const float scale = static_cast<float>(problem.scale);
  for (int64_t i = begin * problem.group() + warp; i < end * problem.group(); i += kWarps) {
    const int head = kv_head * problem.group() + static_cast<int>(i % problem.group());
    const int64_t at = (entry * tokens + i / problem.group()) * problem.heads + head;
    const T* query = static_cast<const T*>(arguments.query) + at * head_dim;
    const T* dout = static_cast<const T*>(arguments.dout) + at * value_dim;
    float queries[kPerLane], douts[kPerLane], score = 0.f, cotangent = 0.f;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int feature = 32 * j + lane;
      queries[j] = feature < head_dim ? to_float(query[feature]) : 0.f;
      douts[j] = feature < value_dim ? to_float(dout[feature]) : 0.f;
      score = fmaf(queries[j], keys[j], score);
      cotangent = fmaf(douts[j], values[j], cotangent);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      score += __shfl_xor_sync(~0u, score, step);
      cotangent += __shfl_xor_sync(~0u, cotangent, step);
    }
    const float weight = __expf(score * scale - static_cast<const float*>(arguments.lse)[at]);
    const float dscore = weight * (cotangent - delta[at]) * scale;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      dkeys[j] = fmaf(dscore, queries[j], dkeys[j]);
      dvalues[j] = fmaf(weight, douts[j], dvalues[j]);
    }
  }

  __shared__ float shared[kWarps][2 * kMostFeatures];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    shared[warp][32 * i + lane] = dkeys[i];
    shared[warp][kMostFeatures + 32 * i + lane] = dvalues[i];
  }
  __syncthreads();
  const int64_t row = head_dim + value_dim;
  const int64_t all = problem.batch * problem.additional * problem.kv_heads;
  float* to = sums + (part * all + own) * row;
  for (int i = threadIdx.x; i < row; i += blockDim.x) {
    float sum = 0.f;
    for (int w = 0; w < kWarps; ++w)
      sum += shared[w][i < head_dim ? i : kMostFeatures + i - head_dim];
    to[i] = sum;
  }
}

// Adds up the parts of one element each.
template <typename T>
__global__ void add_parts(const __grid_constant__ Backward arguments, const float* sums,
                          const int parts, const int64_t elements) {
  const Problem& problem = arguments.problem;
  const int row = problem.head_dim + problem.value_dim;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= elements) return;
  float sum = 0.f;
  for (int part = 0; part < parts; ++part) sum += sums[part * elements + i];
  const int64_t token = i / row;
  const int feature = static_cast<int>(i % row);
  if (feature < problem.head_dim)
    static_cast<T*>(arguments.dadditional_keys)[token * problem.head_dim + feature] = T(sum);
  else
    static_cast<T*>(
        arguments.dadditional_values)[token * problem.value_dim + feature - problem.head_dim] =
        T(sum);
}

// Enough CTAs for any GPU, but none without a hundred queries for each of its warps.
int parts_of(const Problem& problem) {
  constexpr int64_t kCtasWanted = 1024;
  const int64_t ctas = std::max<int64_t>(problem.batch * problem.additional * problem.kv_heads, 1);
  const int64_t most = problem.query_tokens() * problem.group() / (100 * kWarps) + 1;
  return static_cast<int>(std::max<int64_t>(1, std::min((kCtasWanted + ctas - 1) / ctas, most)));
}

int64_t elements_of(const Problem& problem) {
  return problem.batch * problem.additional * problem.kv_heads *
         (problem.head_dim + problem.value_dim);
}

template <typename T>
cudaError_t launch(const Backward& arguments, const float* delta, float* sums,
                   cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const int parts = parts_of(problem);
  const int64_t elements = elements_of(problem);
  const dim3 grid(problem.additional, problem.kv_heads,
                  static_cast<unsigned>(problem.batch * parts));
  const cudaError_t status = ptx::launch(partial_sums<T>, grid, dim3(32 * kWarps), 0, stream,
                                         arguments, delta, sums, parts);
  if (status != cudaSuccess) return status;
  return ptx::launch(add_parts<T>, dim3(static_cast<unsigned>((elements + 255) / 256)), dim3(256),
                     0, stream, arguments, sums, parts, elements);
}

}  // namespace

int64_t additional_gradient_workspace(const Problem& problem) {
  return elements_of(problem) * parts_of(problem) * static_cast<int64_t>(sizeof(float));
}

cudaError_t additional_gradient(const Backward& arguments, const float* delta, float* sums,
                                cudaStream_t stream) {
  switch (arguments.stored) {
    case Stored::kFloat32:
      return launch<float>(arguments, delta, sums, stream);
    case Stored::kBFloat16:
      return launch<__nv_bfloat16>(arguments, delta, sums, stream);
    case Stored::kFloat16:
      return launch<__half>(arguments, delta, sums, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace jax_na::cuda
