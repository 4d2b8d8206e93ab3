// Launches of kernels whose lanes work in groups.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/stored.h"
#include "cuda/naive/box.h"
#include "cuda/naive/row.h"
#include "cuda/ptx/launch.h"

namespace jax_na::cuda::naive {

// Calls call(element) with an element of the type.
template <typename Call>
std::string with_element(Stored stored, Call call) {
  switch (stored) {
    case Stored::kFloat32:
      return call(float());
    case Stored::kFloat64:
      return call(double());
    case Stored::kBFloat16:
      return call(__nv_bfloat16());
    default:
      return call(__half());
  }
}

inline std::string describe(const Problem& problem) {
  std::string text = "batch " + std::to_string(problem.batch) + ", lengths";
  for (const Axis& axis : problem.axes) text += " " + std::to_string(axis.length);
  text += ", kernel_size";
  for (const Axis& axis : problem.axes) text += " " + std::to_string(axis.window);
  return text + ", heads " + std::to_string(problem.heads) + ", head_dim " +
         std::to_string(problem.head_dim) + ", value_dim " + std::to_string(problem.value_dim);
}

// Calls call(format) with the Format of rows of that many features.
template <typename Call>
std::string with_format(Stored stored, int features, int more_features, Call call) {
  return with_element(stored, [&](auto element) {
    using T = decltype(element);
    if (features * sizeof(T) % 16 == 0 && more_features * sizeof(T) % 16 == 0)
      return call(Format<T, true>());
    return call(Format<T, false>());
  });
}

template <typename Kernel>
std::string load(Kernel kernel) {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, ptx::address_of(kernel));
  if (status == cudaSuccess) return "";
  return std::string("loading a naive kernel: ") + cudaGetErrorString(status);
}

// Loads kernel(format) of all formats.
template <typename Kernel>
std::string load_all(Kernel kernel) {
  for (Stored stored : {Stored::kFloat32, Stored::kFloat64, Stored::kBFloat16, Stored::kFloat16}) {
    const std::string error = with_element(stored, [&](auto element) {
      using T = decltype(element);
      const std::string error = load(kernel(Format<T, true>()));
      return error.empty() ? load(kernel(Format<T, false>())) : error;
    });
    if (!error.empty()) return error;
  }
  return "";
}

// Launches kernel(groups, arguments...) with a group for each of `items` of each of `heads` of each
// batch entry. Rows hold up to `features`; tokens are those of `side`.
template <typename Kernel, typename... Arguments>
std::string launch_groups(Kernel kernel, const Problem& problem, Side side, int64_t items,
                          int heads, int features, cudaStream_t stream,
                          const Arguments&... arguments) {
  constexpr int64_t kMost = INT32_MAX, kMostEntries = 65535;
  if (features > kMostFeatures)
    return "the naive kernels take up to " + std::to_string(kMostFeatures) + " features (" +
           describe(problem) + ")";
  if (items * heads > kMost || problem.query_tokens() > kMost || problem.key_tokens() > kMost)
    return "the naive kernels number the tokens and heads of a batch entry below 2^31 (" +
           describe(problem) + ")";
  if (items == 0) return "";
  const bool queries = side == Side::kQueries;
  const Axis &y = problem.axes[1], &x = problem.axes[2];
  Groups groups;
  groups.items = static_cast<int>(items);
  groups.heads = FastDiv(heads);
  groups.height = FastDiv(queries ? y.query_count : y.key_count);
  groups.width = FastDiv(queries ? x.query_count : x.key_count);
  groups.lane_shift = 0;
  while (kPerLane << groups.lane_shift < features) ++groups.lane_shift;
  const int64_t in_block = kThreads >> groups.lane_shift;
  for (int64_t entry = 0; entry < problem.batch; entry += kMostEntries) {
    groups.first_entry = entry;
    const dim3 grid(static_cast<unsigned>((items * heads - 1) / in_block + 1),
                    static_cast<unsigned>(std::min(kMostEntries, problem.batch - entry)));
    const cudaError_t status =
        ptx::launch(kernel, grid, dim3(kThreads), 0, stream, groups, arguments...);
    if (status != cudaSuccess)
      return std::string("launching a naive kernel: ") + cudaGetErrorString(status) + " (" +
             describe(problem) + ")";
  }
  return "";
}

}  // namespace jax_na::cuda::naive
