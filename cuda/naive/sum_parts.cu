// Adds up sums that were made in parts, in order.
#include "cuda/naive/launch_groups.h"
#include "cuda/naive/passes.h"

namespace jax_na::cuda::naive {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_parts_kernel(const RealOf<T>* from, const int parts, const int64_t count, T* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  RealOf<T> sum = 0;
  for (int part = 0; part < parts; ++part) sum += from[part * count + i];
  to[i] = static_cast<T>(sum);
}

}  // namespace

std::string sum_parts(const void* from, int parts, int64_t count, Stored stored, void* to,
                      cudaStream_t stream) {
  if (count == 0) return "";
  return with_element(stored, [&](auto element) -> std::string {
    using T = decltype(element);
    const dim3 grid(static_cast<unsigned>((count - 1) / kThreads + 1));
    const cudaError_t status =
        ptx::launch(sum_parts_kernel<T>, grid, dim3(kThreads), 0, stream,
                    static_cast<const RealOf<T>*>(from), parts, count, static_cast<T*>(to));
    if (status == cudaSuccess) return "";
    return std::string("launching a naive kernel: ") + cudaGetErrorString(status);
  });
}

std::string load_sum_parts() {
  for (Stored stored : {Stored::kFloat32, Stored::kFloat64, Stored::kBFloat16, Stored::kFloat16}) {
    const std::string error = with_element(
        stored, [](auto element) { return load(sum_parts_kernel<decltype(element)>); });
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace jax_na::cuda::naive
