#include "cuda/hopper/backward/maps.h"

#include "cuda/hopper/backward/tensor_map.h"

namespace jax_na::cuda {

std::string encode_maps(const Backward& from, const float* sums, HopperBackwardArguments& to) {
  constexpr int kRowBytes = 128;
  const Problem& problem = from.problem;
  const HopperBackwardPlan& plan = to.plan;
  const Axis* axes = problem.axes;
  const CUtensorMapDataType type = from.stored == Stored::kFloat16
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  auto box = [&](int bytes, const int (&counts)[kMaxRank]) {
    return MappedBox{kRowBytes / bytes,
                     {counts[0], counts[1], counts[2]},
                     {axes[0].dilation, axes[1].dilation, axes[2].dilation}};
  };
  const MappedBox rows = box(2, plan.rows), columns = box(2, plan.keys);
  auto of_keys = [&](CUtensorMap& map, const void* data) {
    return encode_map(map,
                      {data,
                       type,
                       problem.kv_heads * problem.head_dim,
                       {axes[0].key_count, axes[1].key_count, axes[2].key_count},
                       problem.batch},
                      rows);
  };
  const int queries[kMaxRank] = {axes[0].query_count, axes[1].query_count, axes[2].query_count};
  auto of_queries = [&](CUtensorMap& map, const void* data) {
    return encode_map(map,
                      {data,
                       type,
                       problem.heads * problem.head_dim,
                       {queries[0], queries[1], queries[2]},
                       problem.batch},
                      columns);
  };
  std::string wrong = of_keys(to.key, from.key);
  if (wrong.empty()) wrong = of_keys(to.value, from.value);
  if (wrong.empty()) wrong = of_keys(to.dkey, from.dkey);
  if (wrong.empty()) wrong = of_keys(to.dvalue, from.dvalue);
  if (wrong.empty()) wrong = of_queries(to.query, from.query);
  if (wrong.empty()) wrong = of_queries(to.dout, from.dout);
  if (wrong.empty())
    wrong = encode_map(to.sums,
                       {sums,
                        CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                        problem.head_dim,
                        {queries[0], queries[1], queries[2]},
                        problem.batch * problem.heads},
                       box(sizeof(float), plan.keys));
  return wrong;
}

}  // namespace jax_na::cuda
