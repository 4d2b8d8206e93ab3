#include "cuda/hopper/maps.h"

#include "cuda/hopper/tensor_map.h"

namespace jax_na::cuda {

std::string encode_maps(const Forward& from, int out_columns, HopperArguments& to) {
  const Problem& problem = from.problem;
  const HopperPlan& plan = to.plan;
  const Axis* axes = problem.axes;
  const int queries[kMaxRank] = {axes[0].query_count, axes[1].query_count, axes[2].query_count};
  const int keys[kMaxRank] = {axes[0].key_count, axes[1].key_count, axes[2].key_count};
  auto tensor = [&](const void* data, int heads, const int (&counts)[kMaxRank]) {
    return MappedTensor{data,
                        from.stored == Stored::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                        : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                        heads * problem.head_dim,
                        {counts[0], counts[1], counts[2]},
                        problem.batch};
  };
  auto box = [&](int columns, const int (&counts)[kMaxRank]) {
    return MappedBox{columns,
                     {counts[0], counts[1], counts[2]},
                     {axes[0].dilation, axes[1].dilation, axes[2].dilation}};
  };
  constexpr int kColumns = 64;
  std::string wrong =
      encode_map(to.query, tensor(from.query, problem.heads, queries), box(kColumns, plan.rows));
  if (wrong.empty())
    wrong =
        encode_map(to.out, tensor(from.out, problem.heads, queries), box(out_columns, plan.rows));
  if (wrong.empty())
    wrong =
        encode_map(to.key, tensor(from.key, problem.kv_heads, keys), box(kColumns, plan.columns));
  if (wrong.empty())
    wrong = encode_map(to.value, tensor(from.value, problem.kv_heads, keys),
                       box(kColumns, plan.columns));
  if (problem.additional == 0) return wrong;
  const int tokens[kMaxRank] = {1, 1, problem.additional};
  const MappedBox line{kColumns, {1, 1, plan.column_count()}, {1, 1, 1}};
  if (wrong.empty())
    wrong = encode_map(to.additional_keys, tensor(from.additional_keys, problem.kv_heads, tokens),
                       line);
  if (wrong.empty())
    wrong = encode_map(to.additional_values,
                       tensor(from.additional_values, problem.kv_heads, tokens), line);
  return wrong;
}

}  // namespace jax_na::cuda
