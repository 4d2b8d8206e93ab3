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

// The tokens of a launch in a tensor.
struct Tensor {
  const void* data;
  int features;  // of a head
  int heads;
  int counts[kMaxRank];     // tokens along z, y, x
  int64_t steps[kMaxRank];  // from one to the next, in tokens of the tensor
  int64_t entries;
  int64_t entry;  // from one to the next, in tokens
  int64_t first;  // token

  int64_t token_bytes() const { return int64_t{kElementBytes} * heads * features; }
};

// Those that are `phase` modulo `phases` of a tensor with `all` tokens along the axes.
Tensor tokens_of(const void* data, int features, int heads, int64_t entries,
                 const int (&all)[kMaxRank], const int (&phases)[kMaxRank],
                 const int (&phase)[kMaxRank]) {
  Tensor part{data, features, heads, {}, {}, entries, 1, 0};
  for (int a = kMaxRank - 1; a >= 0; --a) {
    part.counts[a] = (all[a] - phase[a] + phases[a] - 1) / phases[a];
    part.steps[a] = part.entry * phases[a];
    part.first += part.entry * phase[a];
    part.entry *= all[a];
  }
  return part;
}

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
  auto add = [&](int64_t size, int64_t stride, int side, int step) {
    sizes[axes] = static_cast<cuuint64_t>(size);
    strides[axes] = static_cast<cuuint64_t>(stride);
    sides[axes] = static_cast<cuuint32_t>(side * step);
    steps[axes] = static_cast<cuuint32_t>(step);
    ++axes;
  };
  auto add_axis = [&](int a) {
    add(tensor.counts[a], tensor.steps[a] * tensor.token_bytes(), box.counts[a], box.steps[a]);
  };
  if (heads_apart) {
    add(tensor.features, kElementBytes, box.columns, 1);
    add(tensor.heads, int64_t{kElementBytes} * tensor.features, 1, 1);
  } else {
    add(static_cast<int64_t>(tensor.heads) * tensor.features, kElementBytes, box.columns, 1);
  }
  add_axis(2);
  add_axis(1);
  if (!heads_apart || tensor.entries == 1) add_axis(0);
  if (!heads_apart || tensor.entries != 1)
    add(tensor.entries, tensor.entry * tensor.token_bytes(), 1, 1);
  const char* data = static_cast<const char*>(tensor.data) + tensor.first * tensor.token_bytes();
  const CUresult result =
      encode_tiled(&map,
                   stored == Stored::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                              : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                   kAxes, const_cast<char*>(data), sizes, strides + 1, sides, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE,
                   box.columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return "";
  return "encoding a tensor map failed with error " + std::to_string(static_cast<int>(result));
}

}  // namespace

std::string encode_maps(const Forward& from, const int (&phase)[kMaxRank], int out_columns,
                        HopperArguments& to) {
  const Problem& problem = from.problem;
  const HopperPlan& plan = to.plan;
  const Axis* axes = problem.axes;
  const int queries[kMaxRank] = {axes[0].query_count, axes[1].query_count, axes[2].query_count};
  const int keys[kMaxRank] = {axes[0].key_count, axes[1].key_count, axes[2].key_count};
  auto tensor = [&](const void* data, int heads, int features, const int (&all)[kMaxRank]) {
    return tokens_of(data, features, heads, problem.batch, all, plan.phases, phase);
  };
  auto box = [&](int columns, const int (&counts)[kMaxRank]) {
    const Axis* steps = to.problem.axes;
    return Box{columns,
               {counts[0], counts[1], counts[2]},
               {steps[0].dilation, steps[1].dilation, steps[2].dilation}};
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
    const int one[kMaxRank] = {1, 1, 1}, none[kMaxRank] = {0, 0, 0};
    const Box line{kColumns, {1, 1, plan.key_count()}, {1, 1, 1}};
    auto lines = [&](const void* data, int features) {
      return tokens_of(data, features, problem.kv_heads, problem.batch, tokens, one, none);
    };
    fill(to.additional_keys, lines(from.additional_keys, head_dim), line);
    fill(to.additional_values, lines(from.additional_values, value_dim), line);
  }
  // LSE is a tensor of one feature.
  const Tensor lse = tensor(from.lse, problem.heads, 1, queries);
  to.lse = static_cast<float*>(from.lse) + lse.first * problem.heads;
  to.lse_entry = lse.entry * problem.heads;
  for (int a = 0; a < kMaxRank; ++a) to.lse_steps[a] = lse.steps[a] * problem.heads;
  return wrong;
}

}  // namespace jax_na::cuda
