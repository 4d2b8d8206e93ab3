#include "cuda/hopper/backward/maps.h"

#include "cuda/hopper/tensor_map.h"

namespace jax_na::cuda {

std::string encode_maps(const Backward& from, const int (&phase)[kMaxRank],
                        const HopperBackwardColumns& boxes, const float* sums,
                        const float2* statistics, HopperBackwardArguments& to) {
  const Problem& problem = from.problem;
  const HopperBackwardPlan& plan = to.plan;
  const Axis* axes = problem.axes;
  const Axis* steps = to.problem.axes;
  const CUtensorMapDataType type = from.stored == Stored::kFloat16
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const int queries[kMaxRank] = {axes[0].query_count, axes[1].query_count, axes[2].query_count};
  const int keys[kMaxRank] = {axes[0].key_count, axes[1].key_count, axes[2].key_count};
  auto box = [&](int columns, const int (&counts)[kMaxRank]) {
    return MappedBox{columns,
                     {counts[0], counts[1], counts[2]},
                     {steps[0].dilation, steps[1].dilation, steps[2].dilation}};
  };
  std::string wrong;
  auto fill = [&](CUtensorMap& map, bool heads_apart, const MappedTensor& of, const MappedBox& by) {
    if (wrong.empty()) wrong = encode_map(map, heads_apart, of, by);
  };
  auto of_keys = [&](CUtensorMap& map, const void* data, int columns) {
    fill(map, plan.heads_apart,
         phase_of(whole_tensor(data, type, problem.head_dim, problem.kv_heads, keys, problem.batch),
                  plan.phases, phase),
         box(columns, plan.rows));
  };
  auto of_queries = [&](CUtensorMap& map, const void* data) {
    fill(map, plan.heads_apart,
         phase_of(whole_tensor(data, type, problem.head_dim, problem.heads, queries, problem.batch),
                  plan.phases, phase),
         box(boxes.line, plan.columns));
  };
  of_keys(to.key, from.key, boxes.line);
  of_keys(to.value, from.value, boxes.line);
  of_keys(to.dkey, from.dkey, boxes.out);
  of_keys(to.dvalue, from.dvalue, boxes.out);
  of_queries(to.query, from.query);
  of_queries(to.dout, from.dout);
  if (problem.additional > 0) {
    const int tokens[kMaxRank] = {1, 1, problem.additional};
    const MappedBox line{boxes.line, {1, 1, plan.row_count()}, {1, 1, 1}};
    auto lines = [&](const void* data) {
      return whole_tensor(data, type, problem.head_dim, problem.kv_heads, tokens, problem.batch);
    };
    fill(to.additional_keys, plan.heads_apart, lines(from.additional_keys), line);
    fill(to.additional_values, plan.heads_apart, lines(from.additional_values), line);
  }
  // Of one head each, as many as there are batch entries and heads; so are the statistics, of one
  // feature.
  auto by_head = [&](const void* data, int features) {
    return phase_of(whole_tensor(data, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, features, 1, queries,
                                 problem.batch * problem.heads),
                    plan.phases, phase);
  };
  constexpr int kSumColumns = 32;
  if (sums != nullptr)
    fill(to.sums, false, by_head(sums, sum_features(problem.head_dim)),
         box(kSumColumns, plan.columns));
  const MappedTensor of = by_head(statistics, 1);
  to.statistics = statistics + of.first;
  to.statistics_head = of.entry;
  for (int a = 0; a < kMaxRank; ++a) to.statistics_steps[a] = of.steps[a];
  return wrong;
}

}  // namespace jax_na::cuda
