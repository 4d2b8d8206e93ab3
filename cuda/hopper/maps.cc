#include "cuda/hopper/maps.h"

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_na::cuda {
namespace {

constexpr int kAxes = 5;  // features of all heads, x, y, z, batch entry
constexpr int kElementBytes = 2;

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time: the library links the runtime alone.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &found);
#else
  const cudaError_t status =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<Encode>(function);
}

struct Tensor {
  const void* data;
  int columns;           // features of all heads
  int counts[kMaxRank];  // tokens along z, y, x
  int64_t entries;
};

struct Box {
  int columns;
  int counts[kMaxRank];
  int steps[kMaxRank];  // from token to token
};

std::string encode(CUtensorMap& map, Stored stored, const Tensor& tensor, const Box& box) {
  static const Encode encode_tiled = find_encode();
  if (encode_tiled == nullptr) return "the driver has no cuTensorMapEncodeTiled";
  cuuint64_t sizes[kAxes], strides[kAxes];  // strides[a]: bytes from one of axis a to the next
  cuuint32_t sides[kAxes], steps[kAxes];
  sizes[0] = static_cast<cuuint64_t>(tensor.columns);
  strides[0] = kElementBytes;
  sides[0] = static_cast<cuuint32_t>(box.columns);
  steps[0] = 1;
  for (int i = 1; i <= kMaxRank; ++i) {
    const int axis = kMaxRank - i;
    sizes[i] = static_cast<cuuint64_t>(tensor.counts[axis]);
    sides[i] = static_cast<cuuint32_t>(box.counts[axis] * box.steps[axis]);
    steps[i] = static_cast<cuuint32_t>(box.steps[axis]);
  }
  sizes[kAxes - 1] = static_cast<cuuint64_t>(tensor.entries);
  sides[kAxes - 1] = steps[kAxes - 1] = 1;
  for (int i = 1; i < kAxes; ++i) strides[i] = strides[i - 1] * sizes[i - 1];
  const CUresult result =
      encode_tiled(&map,
                   stored == Stored::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                              : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                   kAxes, const_cast<void*>(tensor.data), sizes, strides + 1, sides, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE,
                   box.columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return "";
  return "encoding a tensor map failed with error " + std::to_string(static_cast<int>(result));
}

}  // namespace

std::string encode_maps(const Forward& from, int out_columns, HopperArguments& to) {
  const Problem& problem = from.problem;
  const HopperPlan& plan = to.plan;
  const Axis* axes = problem.axes;
  const int queries[kMaxRank] = {axes[0].query_count, axes[1].query_count, axes[2].query_count};
  const int keys[kMaxRank] = {axes[0].key_count, axes[1].key_count, axes[2].key_count};
  auto tensor = [&](const void* data, int heads, const int (&counts)[kMaxRank]) {
    return Tensor{data, heads * problem.head_dim, {counts[0], counts[1], counts[2]}, problem.batch};
  };
  auto box = [&](int columns, const int (&counts)[kMaxRank]) {
    return Box{columns,
               {counts[0], counts[1], counts[2]},
               {axes[0].dilation, axes[1].dilation, axes[2].dilation}};
  };
  constexpr int kColumns = 64;
  std::string wrong = encode(to.query, from.stored, tensor(from.query, problem.heads, queries),
                             box(kColumns, plan.rows));
  if (wrong.empty())
    wrong = encode(to.out, from.stored, tensor(from.out, problem.heads, queries),
                   box(out_columns, plan.rows));
  if (wrong.empty())
    wrong = encode(to.key, from.stored, tensor(from.key, problem.kv_heads, keys),
                   box(kColumns, plan.keys));
  if (wrong.empty())
    wrong = encode(to.value, from.stored, tensor(from.value, problem.kv_heads, keys),
                   box(kColumns, plan.keys));
  if (problem.additional == 0) return wrong;
  const int tokens[kMaxRank] = {1, 1, problem.additional};
  const Box line{kColumns, {1, 1, plan.key_count()}, {1, 1, 1}};
  if (wrong.empty())
    wrong = encode(to.additional_keys, from.stored,
                   tensor(from.additional_keys, problem.kv_heads, tokens), line);
  if (wrong.empty())
    wrong = encode(to.additional_values, from.stored,
                   tensor(from.additional_values, problem.kv_heads, tokens), line);
  return wrong;
}

}  // namespace jax_na::cuda
