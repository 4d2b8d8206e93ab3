// What comes before and after the sums of cuda/bias_sums.h: the largest numbers of tensors, which
// give the factor, and the gradient as floats.
#include "cuda/bias_sums.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/gemm/by_type.h"
#include "cuda/ptx/launch.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kMostBlocks = 264;

// The largest magnitude of a share of a tensor's 16-byte words, as bits.
template <typename T>
__device__ __forceinline__ unsigned largest_of(const void* tensor, int64_t elements, int64_t first,
                                               int64_t step) {
  constexpr int kPerWord = 16 / sizeof(T);
  unsigned largest = 0;
  for (int64_t i = first; i < elements / kPerWord; i += step) {
    const uint4 word = static_cast<const uint4*>(tensor)[i];
    const T* entries = reinterpret_cast<const T*>(&word);
#pragma unroll
    for (int j = 0; j < kPerWord; ++j)
      largest = max(largest, __float_as_uint(fabsf(to_float(entries[j]))));
  }
  for (int64_t i = elements / kPerWord * kPerWord + first; i < elements; i += step)
    largest = max(largest, __float_as_uint(fabsf(to_float(static_cast<const T*>(tensor)[i]))));
  return largest;
}

__device__ __forceinline__ void keep_largest(unsigned largest, unsigned* of_all) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    largest = max(largest, __shfl_xor_sync(~0u, largest, step));
  if (threadIdx.x % 32 == 0 && largest > 0) atomicMax(of_all, largest);
}

// The power of two that makes `count` cotangents integers whose sum is below 2^62, with 16 times as
// much to spare: a rounded weight may exceed 1.
__device__ float factor_of(const BiasSums::Largest& largest, int features, int64_t count) {
  const double most = 2.0 * features * __uint_as_float(largest.dout) *
                          static_cast<double>(__uint_as_float(largest.value)) +
                      __uint_as_float(largest.dlse);
  if (!(most < INFINITY)) return NAN;
  if (most == 0) return 1.f;
  const int exponent = 58 - (ilogb(most) + 1) - (ilogb(static_cast<double>(count)) + 1);
  return ldexpf(1.f, max(-126, min(exponent, 126)));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    find_factor(const __grid_constant__ Backward arguments, BiasSums* sums) {
  const Problem& problem = arguments.problem;
  const int64_t rows = problem.query_rows();
  const int64_t values = problem.batch * problem.kv_heads * problem.value_dim;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  keep_largest(largest_of<T>(arguments.dout, rows * problem.value_dim, first, step),
               &sums->largest.dout);
  keep_largest(
      max(largest_of<T>(arguments.value, values * problem.key_tokens(), first, step),
          largest_of<T>(arguments.additional_values, values * problem.additional, first, step)),
      &sums->largest.value);
  keep_largest(largest_of<float>(arguments.dlse, rows, first, step), &sums->largest.dlse);
  __threadfence();
  __syncthreads();
  if (threadIdx.x > 0 || atomicAdd(&sums->largest.finished, 1u) + 1 < gridDim.x) return;
  __threadfence();
  const volatile BiasSums::Largest& found = sums->largest;
  const BiasSums::Largest largest = {found.dout, found.value, found.dlse, 0};
  sums->factor = factor_of(largest, problem.value_dim, problem.query_tokens());
}

__global__ void __launch_bounds__(kThreads)
    store_sums(const BiasSums* sums, const int64_t count, float* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const auto sum = static_cast<long long>(BiasSums::table(const_cast<BiasSums*>(sums))[i]);
  to[i] = static_cast<float>(static_cast<double>(sum) / sums->factor);
}

int64_t entries_of(const Problem& problem) {
  return problem.batch * problem.heads * problem.bias_size();
}

}  // namespace

int64_t bias_sums_bytes(const Problem& problem) {
  return BiasSums::kTable + entries_of(problem) * static_cast<int64_t>(sizeof(int64_t));
}

cudaError_t begin_bias_sums(const Backward& arguments, void* sums, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const cudaError_t status =
      cudaMemsetAsync(sums, 0, static_cast<size_t>(bias_sums_bytes(problem)), stream);
  if (status != cudaSuccess) return status;
  return by_type(arguments.stored, [&](auto element) {
    using T = decltype(element);
    const int64_t rows = problem.query_rows();
    const int64_t words = rows * problem.value_dim * static_cast<int64_t>(sizeof(T)) / 16;
    const int64_t blocks = std::clamp<int64_t>(words / kThreads, 1, kMostBlocks);
    return ptx::launch(find_factor<T>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                       stream, arguments, static_cast<BiasSums*>(sums));
  });
}

cudaError_t finish_bias_sums(const Backward& arguments, const void* sums, cudaStream_t stream) {
  const int64_t count = entries_of(arguments.problem);
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  return ptx::launch(store_sums, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
                     static_cast<const BiasSums*>(sums), count,
                     static_cast<float*>(arguments.dbias));
}

cudaError_t load_bias_sums() {
  cudaFuncAttributes attributes;
  for (Stored stored : {Stored::kFloat32, Stored::kBFloat16, Stored::kFloat16}) {
    const cudaError_t status = by_type(stored, [&](auto element) {
      return cudaFuncGetAttributes(&attributes, ptx::address_of(&find_factor<decltype(element)>));
    });
    if (status != cudaSuccess) return status;
  }
  return cudaFuncGetAttributes(&attributes, ptx::address_of(&store_sums));
}

}  // namespace jax_na::cuda
