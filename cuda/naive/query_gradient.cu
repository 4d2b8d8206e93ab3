// The gradient of the query, and of the bias: a group goes through the queries of a run, and
// through each one's window as the forward pass does, with its weights from LSE.
#include "cuda/naive/launch_groups.h"
#include "cuda/naive/passes.h"
#include "cuda/naive/source.h"

namespace jax_na::cuda::naive {
namespace {

// What belongs to one query of one head.
template <typename F>
struct Query {
  using R = typename F::R;
  Row<F> query;
  Row<F> dout;
  R lse;    // in base 2
  R delta;  // sum(dout * out) - dlse
};

// Adds what the keys of a box are worth to the gradient of the query, and to the table of the
// bias's gradients, unless the bias is null.
template <typename F>
__device__ __forceinline__ void add_keys(const Groups& groups, const Problem& problem,
                                         const Box& box, const Source<F>& keys,
                                         const Source<F>& values, const typename F::R* bias,
                                         const Query<F>& own, typename F::R* table,
                                         Row<F>& dquery) {
  using R = typename F::R;
  walk<F::kBatch>(box, span_of(box), [&](const Batch& batch) {
    Row<F> rows[F::kBatch];
    R scores[F::kBatch], cotangents[F::kBatch];  // of the scores, of the weights
    values.load(groups, batch, rows);
    products(groups, own.dout, rows, cotangents);
    keys.load(groups, batch, rows);
    products(groups, own.query, rows, scores);
#pragma unroll
    for (int i = 0; i < F::kBatch; ++i) {
      if (!batch.shows(i)) continue;
      const int64_t entry =
          bias != nullptr ? bias_entry<Side::kQueries>(problem, box, batch, i) : 0;
      scores[i] *= static_cast<R>(problem.scale * kLog2E);
      if (bias != nullptr) scores[i] += static_cast<R>(kLog2E) * bias[entry];
      const R dscore = weight_of(scores[i], own.lse) * (cotangents[i] - own.delta);
      dquery.add(dscore, rows[i]);
      if (bias != nullptr && groups.lane() == 0) table[entry] += dscore;
    }
  });
}

// Items are runs of queries.
template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    query_gradient_kernel(const __grid_constant__ Groups groups,
                          const __grid_constant__ Backward arguments,
                          const __grid_constant__ Parts parts, typename F::R* delta,
                          typename F::R* tables) {
  using T = typename F::T;
  using R = typename F::R;
  const Problem& problem = arguments.problem;
  const int head_dim = problem.head_dim, value_dim = problem.value_dim;
  const Place place = groups.place();
  const int kv_head = place.head / problem.group();
  const int64_t tokens = problem.query_tokens();
  const auto source = [&](const void* tensor, int64_t count, int features) {
    return Source<F>::of(tensor, place.entry, count, problem.kv_heads, kv_head, features);
  };
  const R* bias = bias_of<R>(problem, arguments.bias, place.entry, place.head);
  R* table =
      bias == nullptr
          ? nullptr
          : tables + ((place.item * problem.batch + place.entry) * problem.heads + place.head) *
                         problem.bias_size();

  const Interval run = parts.tokens(place.item, tokens);
  // All groups of a warp go on until the last has finished.
  for (int i = 0; i < parts.run; ++i) {
    const bool active = place.active && i < run.size();
    const int token = active ? run.begin + i : 0;
    const int64_t row = (place.entry * tokens + token) * problem.heads + place.head;
    const auto load = [&](const void* tensor, int features) {
      return load_row<F>(groups, static_cast<const T*>(tensor) + row * features, features);
    };
    Query<F> own;
    own.query = load(arguments.query, head_dim);
    own.dout = load(arguments.dout, value_dim);
    R inner[1] = {own.dout.dot(load(arguments.out, value_dim))};
    groups.sum(inner);
    own.delta = inner[0] - static_cast<const R*>(arguments.dlse)[row];
    own.lse = static_cast<const R*>(arguments.lse)[row] * static_cast<R>(kLog2E);
    if (active && groups.lane() == 0) delta[row] = own.delta;

    Row<F> dquery = {};
    const Box window = box_of<Side::kQueries>(problem, arguments.origins, groups, token, active);
    add_keys(groups, problem, window, source(arguments.key, problem.key_tokens(), head_dim),
             source(arguments.value, problem.key_tokens(), value_dim), bias, own, table, dquery);
    if (problem.additional > 0)
      add_keys<F>(groups, problem, line_box(0, active ? problem.additional : 0),
                  source(arguments.additional_keys, problem.additional, head_dim),
                  source(arguments.additional_values, problem.additional, value_dim), nullptr, own,
                  nullptr, dquery);
    if (!active) continue;
    dquery.scale(static_cast<R>(problem.scale));
    store_row(groups, dquery, static_cast<T*>(arguments.dquery) + row * head_dim, head_dim);
  }
}

}  // namespace

std::string query_gradient(const Backward& arguments, const Parts& parts, void* delta, void* tables,
                           cudaStream_t stream) {
  const Problem& p = arguments.problem;
  return with_format(arguments.stored, p.head_dim, p.value_dim, [&](auto format) {
    using F = decltype(format);
    using R = typename F::R;
    return launch_groups(query_gradient_kernel<F>, p, Side::kQueries, parts.count, p.heads,
                         std::max(p.head_dim, p.value_dim), stream, arguments, parts,
                         static_cast<R*>(delta), static_cast<R*>(tables));
  });
}

std::string load_query_gradient() {
  return load_all([](auto format) { return query_gradient_kernel<decltype(format)>; });
}

}  // namespace jax_na::cuda::naive
