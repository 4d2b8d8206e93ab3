#include "cuda/hopper/maps.h"

#include <cstdint>

#include "cuda/hopper/tensor_map.h"

namespace jax_na::cuda {

std::string encode_maps(const Forward& from, const int (&phase)[kMaxRank], int line_columns,
                        int out_columns, HopperArguments& to) {
  const Problem& problem = from.problem;
  const HopperPlan& plan = to.plan;
  const Axis* axes = problem.axes;
  const int queries[kMaxRank] = {axes[0].query_count, axes[1].query_count, axes[2].query_count};
  const int keys[kMaxRank] = {axes[0].key_count, axes[1].key_count, axes[2].key_count};
  const CUtensorMapDataType type = from.stored == Stored::kFloat16
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  auto tensor = [&](const void* data, int heads, int features, const int (&all)[kMaxRank]) {
    return phase_of(whole_tensor(data, type, features, heads, all, problem.batch), plan.phases,
                    phase);
  };
  auto box = [&](int columns, const int (&counts)[kMaxRank]) {
    const Axis* steps = to.problem.axes;
    return MappedBox{columns,
                     {counts[0], counts[1], counts[2]},
                     {steps[0].dilation, steps[1].dilation, steps[2].dilation}};
  };
  std::string wrong;
  auto fill = [&](CUtensorMap& map, const MappedTensor& of, const MappedBox& by) {
    if (wrong.empty()) wrong = encode_map(map, plan.heads_apart, of, by);
  };
  const int head_dim = problem.head_dim, value_dim = problem.value_dim;
  fill(to.query, tensor(from.query, problem.heads, head_dim, queries),
       box(line_columns, plan.rows));
  fill(to.key, tensor(from.key, problem.kv_heads, head_dim, keys), box(line_columns, plan.columns));
  fill(to.value, tensor(from.value, problem.kv_heads, value_dim, keys),
       box(line_columns, plan.columns));
  fill(to.out, tensor(from.out, problem.heads, value_dim, queries), box(out_columns, plan.rows));
  if (problem.additional > 0) {
    const int tokens[kMaxRank] = {1, 1, problem.additional};
    const MappedBox line{line_columns, {1, 1, plan.column_count()}, {1, 1, 1}};
    auto lines = [&](const void* data, int features) {
      return whole_tensor(data, type, features, problem.kv_heads, tokens, problem.batch);
    };
    fill(to.additional_keys, lines(from.additional_keys, head_dim), line);
    fill(to.additional_values, lines(from.additional_values, value_dim), line);
  }
  // LSE is a tensor of one feature.
  const MappedTensor lse = tensor(from.lse, problem.heads, 1, queries);
  to.lse = static_cast<float*>(from.lse) + lse.first * problem.heads;
  to.lse_entry = lse.entry * problem.heads;
  for (int a = 0; a < kMaxRank; ++a) to.lse_steps[a] = lse.steps[a] * problem.heads;
  return wrong;
}

}  // namespace jax_na::cuda
