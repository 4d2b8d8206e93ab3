#include "cuda/hopper/backward/maps.h"

#include "cuda/hopper/tensor_map.h"

namespace jax_na::cuda {

std::string encode_maps(const Backward& from, const float* sums, HopperBackwardArguments& to) {
  constexpr int kRowBytes = 128;
  const Problem& problem = from.problem;
  const HopperBackwardPlan& plan = to.plan;
  const Axis* axes = problem.axes;
  const CUtensorMapDataType type = from.stored == Stored::kFloat16
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const int queries[kMaxRank] = {axes[0].query_count, axes[1].query_count, axes[2].query_count};
  const int keys[kMaxRank] = {axes[0].key_count, axes[1].key_count, axes[2].key_count};
  auto box = [&](int bytes, const int (&counts)[kMaxRank]) {
    return MappedBox{kRowBytes / bytes,
                     {counts[0], counts[1], counts[2]},
                     {axes[0].dilation, axes[1].dilation, axes[2].dilation}};
  };
  const MappedBox rows = box(2, plan.rows), columns = box(2, plan.columns);
  std::string wrong;
  auto fill = [&](CUtensorMap& map, const MappedTensor& of, const MappedBox& by) {
    if (wrong.empty()) wrong = encode_map(map, plan.heads_apart, of, by);
  };
  auto of_keys = [&](const void* data) {
    return whole_tensor(data, type, problem.head_dim, problem.kv_heads, keys, problem.batch);
  };
  auto of_queries = [&](const void* data) {
    return whole_tensor(data, type, problem.head_dim, problem.heads, queries, problem.batch);
  };
  fill(to.key, of_keys(from.key), rows);
  fill(to.value, of_keys(from.value), rows);
  fill(to.dkey, of_keys(from.dkey), rows);
  fill(to.dvalue, of_keys(from.dvalue), rows);
  fill(to.query, of_queries(from.query), columns);
  fill(to.dout, of_queries(from.dout), columns);
  // Of one head each, as many as there are batch entries and heads.
  if (sums == nullptr) return wrong;
  fill(to.sums,
       whole_tensor(sums, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, problem.head_dim, 1, queries,
                    problem.batch * problem.heads),
       box(sizeof(float), plan.columns));
  return wrong;
}

}  // namespace jax_na::cuda
