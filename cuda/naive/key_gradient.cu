// The gradients of keys and values: a group to each key and head goes through the queries that see
// the key. Additional keys are seen by all queries: there a group takes a part of them.
#include "cuda/naive/launch_groups.h"
#include "cuda/naive/passes.h"
#include "cuda/naive/source.h"

namespace jax_na::cuda::naive {
namespace {

// The gradients of one key and its value, from the queries of a box.
template <typename F>
__device__ __forceinline__ void add_queries(const Groups& groups, const Backward& arguments,
                                            const typename F::R* delta, const Box& box,
                                            int64_t entry, int kv_head, bool biased,
                                            const Row<F>& key, const Row<F>& value, Row<F>& dkey,
                                            Row<F>& dvalue) {
  using R = typename F::R;
  constexpr int kCount = F::kBatch;
  const Problem& problem = arguments.problem;
  const int64_t tokens = problem.query_tokens();
  const Span span = span_of(box);
  for (int n = 0; n < problem.group(); ++n) {
    const int head = kv_head * problem.group() + n;
    const R* bias = biased ? bias_of<R>(problem, arguments.bias, entry, head) : nullptr;
    const auto queries =
        Source<F>::of(arguments.query, entry, tokens, problem.heads, head, problem.head_dim);
    const auto douts =
        Source<F>::of(arguments.dout, entry, tokens, problem.heads, head, problem.value_dim);
    walk<kCount>(box, span, [&](const Batch& batch) {
      Row<F> query[kCount], dout[kCount];
      R scores[kCount], cotangents[kCount];  // of the scores, of the weights
      queries.load(groups, batch, query);
      douts.load(groups, batch, dout);
      products(groups, key, query, scores);
      products(groups, value, dout, cotangents);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (!batch.shows(i)) continue;
        const int64_t row = (entry * tokens + batch.token(i)) * problem.heads + head;
        const R lse = static_cast<const R*>(arguments.lse)[row] * static_cast<R>(kLog2E);
        scores[i] *= static_cast<R>(problem.scale * kLog2E);
        if (bias != nullptr)
          scores[i] +=
              static_cast<R>(kLog2E) * bias[bias_entry<Side::kKeys>(problem, box, batch, i)];
        const R weight = weight_of(scores[i], lse);
        dvalue.add(weight, dout[i]);
        dkey.add(weight * (cotangents[i] - delta[row]), query[i]);
      }
    });
  }
  dkey.scale(static_cast<R>(problem.scale));
}

template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    key_gradient_kernel(const __grid_constant__ Groups groups,
                        const __grid_constant__ Backward arguments, const typename F::R* delta) {
  using T = typename F::T;
  const Problem& problem = arguments.problem;
  const int head_dim = problem.head_dim, value_dim = problem.value_dim;
  const Place place = groups.place();
  const int64_t row =
      (place.entry * problem.key_tokens() + place.item) * problem.kv_heads + place.head;
  const Row<F> key =
      load_row<F>(groups, static_cast<const T*>(arguments.key) + row * head_dim, head_dim);
  const Row<F> value =
      load_row<F>(groups, static_cast<const T*>(arguments.value) + row * value_dim, value_dim);
  const Box box = box_of<Side::kKeys>(problem, arguments.origins, groups, place.item, place.active);
  Row<F> dkey = {}, dvalue = {};
  add_queries(groups, arguments, delta, box, place.entry, place.head, true, key, value, dkey,
              dvalue);
  if (!place.active) return;
  store_row(groups, dkey, static_cast<T*>(arguments.dkey) + row * head_dim, head_dim);
  store_row(groups, dvalue, static_cast<T*>(arguments.dvalue) + row * value_dim, value_dim);
}

// Items are [parts, additional tokens].
template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    additional_gradient_kernel(const __grid_constant__ Groups groups,
                               const __grid_constant__ Backward arguments,
                               const __grid_constant__ Parts parts, const typename F::R* delta,
                               typename F::R* dkeys, typename F::R* dvalues) {
  using T = typename F::T;
  const Problem& problem = arguments.problem;
  const int head_dim = problem.head_dim, value_dim = problem.value_dim;
  const Place place = groups.place();
  const int part = place.item / problem.additional, token = place.item % problem.additional;
  const int64_t row = (place.entry * problem.additional + token) * problem.kv_heads + place.head;
  const Row<F> key = load_row<F>(
      groups, static_cast<const T*>(arguments.additional_keys) + row * head_dim, head_dim);
  const Row<F> value = load_row<F>(
      groups, static_cast<const T*>(arguments.additional_values) + row * value_dim, value_dim);
  const Interval run = parts.tokens(part, problem.query_tokens());
  const Box box = line_box(run.begin, place.active ? run.size() : 0);
  Row<F> dkey = {}, dvalue = {};
  add_queries(groups, arguments, delta, box, place.entry, place.head, false, key, value, dkey,
              dvalue);
  if (!place.active) return;
  const int64_t to = part * problem.batch * problem.additional * problem.kv_heads + row;
  store_sums(groups, dkey, dkeys + to * head_dim, head_dim);
  store_sums(groups, dvalue, dvalues + to * value_dim, value_dim);
}

}  // namespace

std::string key_gradient(const Backward& arguments, const void* delta, cudaStream_t stream) {
  const Problem& p = arguments.problem;
  return with_format(arguments.stored, p.head_dim, p.value_dim, [&](auto format) {
    using F = decltype(format);
    return launch_groups(key_gradient_kernel<F>, p, Side::kKeys, p.key_tokens(), p.kv_heads,
                         std::max(p.head_dim, p.value_dim), stream, arguments,
                         static_cast<const typename F::R*>(delta));
  });
}

std::string additional_gradient(const Backward& arguments, const Parts& parts, const void* delta,
                                void* dkeys, void* dvalues, cudaStream_t stream) {
  const Problem& p = arguments.problem;
  return with_format(arguments.stored, p.head_dim, p.value_dim, [&](auto format) {
    using F = decltype(format);
    using R = typename F::R;
    return launch_groups(
        additional_gradient_kernel<F>, p, Side::kQueries, int64_t{parts.count} * p.additional,
        p.kv_heads, std::max(p.head_dim, p.value_dim), stream, arguments, parts,
        static_cast<const R*>(delta), static_cast<R*>(dkeys), static_cast<R*>(dvalues));
  });
}

std::string load_key_gradient() {
  const std::string error =
      load_all([](auto format) { return key_gradient_kernel<decltype(format)>; });
  if (!error.empty()) return error;
  return load_all([](auto format) { return additional_gradient_kernel<decltype(format)>; });
}

}  // namespace jax_na::cuda::naive
