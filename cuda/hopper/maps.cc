#include "cuda/hopper/maps.h"

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_na::cuda {
namespace {

constexpr int kAxes = 5;
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
  int features;  // of a head
  int heads;
  int counts[kMaxRank];  // tokens along z, y, x
  int64_t entries;
};

struct Box {
  int columns;
  int counts[kMaxRank];
  int steps[kMaxRank];  // from token to token
};

// With `heads_apart` the axes are (features, heads, x, y, z or batch entry), and what a box has of
// features beyond a head's is zeros; otherwise (features of all heads, x, y, z, batch entry).
std::string encode(CUtensorMap& map, Stored stored, bool heads_apart, const Tensor& tensor,
                   const Box& box) {
  static const Encode encode_tiled = find_encode();
  if (encode_tiled == nullptr) return "the driver has no cuTensorMapEncodeTiled";
  cuuint64_t sizes[kAxes], strides[kAxes];  // strides[a]: bytes from one of axis a to the next
  cuuint32_t sides[kAxes], steps[kAxes];
  int axes = 0;
  auto add = [&](int64_t size, int side, int step) {
    sizes[axes] = static_cast<cuuint64_t>(size);
    sides[axes] = static_cast<cuuint32_t>(side * step);
    steps[axes] = static_cast<cuuint32_t>(step);
    strides[axes] = axes == 0 ? kElementBytes : strides[axes - 1] * sizes[axes - 1];
    ++axes;
  };
  if (heads_apart) {
    add(tensor.features, box.columns, 1);
    add(tensor.heads, 1, 1);
  } else {
    add(static_cast<int64_t>(tensor.heads) * tensor.features, box.columns, 1);
  }
  add(tensor.counts[2], box.counts[2], box.steps[2]);
  add(tensor.counts[1], box.counts[1], box.steps[1]);
  if (!heads_apart || tensor.entries == 1) add(tensor.counts[0], box.counts[0], box.steps[0]);
  if (!heads_apart || tensor.entries != 1) add(tensor.entries, 1, 1);
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
  auto tensor = [&](const void* data, int heads, int features, const int (&counts)[kMaxRank]) {
    return Tensor{data, features, heads, {counts[0], counts[1], counts[2]}, problem.batch};
  };
  auto box = [&](int columns, const int (&counts)[kMaxRank]) {
    return Box{columns,
               {counts[0], counts[1], counts[2]},
               {axes[0].dilation, axes[1].dilation, axes[2].dilation}};
  };
  constexpr int kColumns = 64;
  std::string wrong;
  auto fill = [&](CUtensorMap& map, const Tensor& of, const Box& by) {
    if (wrong.empty()) wrong = encode(map, from.stored, plan.heads_apart, of, by);
  };
  const int head_dim = problem.head_dim, value_dim = problem.value_dim;
  fill(to.query, tensor(from.query, problem.heads, head_dim, queries), box(kColumns, plan.rows));
  fill(to.key, tensor(from.key, problem.kv_heads, head_dim, keys), box(kColumns, plan.keys));
  fill(to.value, tensor(from.value, problem.kv_heads, value_dim, keys), box(kColumns, plan.keys));
  fill(to.out, tensor(from.out, problem.heads, value_dim, queries), box(out_columns, plan.rows));
  if (problem.additional > 0) {
    const int tokens[kMaxRank] = {1, 1, problem.additional};
    const Box line{kColumns, {1, 1, plan.key_count()}, {1, 1, 1}};
    fill(to.additional_keys, tensor(from.additional_keys, problem.kv_heads, head_dim, tokens),
         line);
    fill(to.additional_values, tensor(from.additional_values, problem.kv_heads, value_dim, tokens),
         line);
  }
  return wrong;
}

}  // namespace jax_na::cuda
