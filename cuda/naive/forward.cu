// The naive forward pass: a group to each query and head goes through the keys of its window, a few
// at a time, with an online softmax in base 2.
#include "cuda/naive/launch_groups.h"
#include "cuda/naive/naive.h"
#include "cuda/naive/passes.h"
#include "cuda/naive/source.h"

namespace jax_na::cuda {
namespace naive {
namespace {

// The softmax of the scores met so far, and the values that it weighs.
template <typename F>
struct Softmax {
  using R = typename F::R;
  Row<F> sum = {};
  R top = -kInfinity<R>;  // the largest score
  R total = 0;            // of the weights

  __device__ __forceinline__ void add(const R (&scores)[F::kBatch],
                                      const Row<F> (&values)[F::kBatch]) {
    R now = top;
#pragma unroll
    for (int i = 0; i < F::kBatch; ++i) now = larger(now, scores[i]);
    const R base = now == -kInfinity<R> ? R(0) : now;  // nothing seen yet: weights are 0
    const R shrink = exp2_of(top - base);
    top = now;
    total *= shrink;
    sum.scale(shrink);
#pragma unroll
    for (int i = 0; i < F::kBatch; ++i) {
      const R weight = exp2_of(scores[i] - base);
      total += weight;
      sum.add(weight, values[i]);
    }
  }
};

// The keys of a box, with their values; `bias` may be null.
template <typename F>
__device__ __forceinline__ void add_keys(const Groups& groups, const Problem& problem,
                                         const Box& box, const Source<F>& keys,
                                         const Source<F>& values, const typename F::R* bias,
                                         const Row<F>& query, Softmax<F>& softmax) {
  using R = typename F::R;
  walk<F::kBatch>(box, span_of(box), [&](const Batch& batch) {
    Row<F> rows[F::kBatch];
    R scores[F::kBatch];
    keys.load(groups, batch, rows);
    products(groups, query, rows, scores);
    values.load(groups, batch, rows);
#pragma unroll
    for (int i = 0; i < F::kBatch; ++i) {
      scores[i] *= static_cast<R>(problem.scale * kLog2E);
      if (!batch.shows(i))
        scores[i] = -kInfinity<R>;
      else if (bias != nullptr)
        scores[i] +=
            static_cast<R>(kLog2E) * bias[bias_entry<Side::kQueries>(problem, box, batch, i)];
    }
    softmax.add(scores, rows);
  });
}

template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(const __grid_constant__ Groups groups,
                   const __grid_constant__ Forward arguments) {
  using T = typename F::T;
  using R = typename F::R;
  const Problem& problem = arguments.problem;
  const int head_dim = problem.head_dim, value_dim = problem.value_dim;
  const Place place = groups.place();
  const int kv_head = place.head / problem.group();
  const int64_t row =
      (place.entry * problem.query_tokens() + place.item) * problem.heads + place.head;
  const Row<F> query =
      load_row<F>(groups, static_cast<const T*>(arguments.query) + row * head_dim, head_dim);
  const auto source = [&](const void* tensor, int64_t tokens, int features) {
    return Source<F>::of(tensor, place.entry, tokens, problem.kv_heads, kv_head, features);
  };

  Softmax<F> softmax;
  const Box window =
      box_of<Side::kQueries>(problem, arguments.origins, groups, place.item, place.active);
  add_keys(groups, problem, window, source(arguments.key, problem.key_tokens(), head_dim),
           source(arguments.value, problem.key_tokens(), value_dim),
           bias_of<R>(problem, arguments.bias, place.entry, place.head), query, softmax);
  if (problem.additional > 0)
    add_keys<F>(groups, problem, line_box(0, place.active ? problem.additional : 0),
                source(arguments.additional_keys, problem.additional, head_dim),
                source(arguments.additional_values, problem.additional, value_dim), nullptr, query,
                softmax);

  if (!place.active) return;
  const R total = softmax.total;
  softmax.sum.scale(total == 0 ? R(0) : 1 / total);  // a row that sees nothing: out 0, LSE -inf
  store_row(groups, softmax.sum, static_cast<T*>(arguments.out) + row * value_dim, value_dim);
  if (groups.lane() == 0)
    static_cast<R*>(arguments.lse)[row] = (softmax.top + log2_of(total)) * static_cast<R>(kLn2);
}

}  // namespace

std::string load_forward() {
  return load_all([](auto format) { return forward_kernel<decltype(format)>; });
}

}  // namespace naive

std::string naive_forward(const Forward& arguments, cudaStream_t stream) {
  using namespace naive;
  const Problem& p = arguments.problem;
  return with_format(arguments.stored, p.head_dim, p.value_dim, [&](auto format) {
    return launch_groups(forward_kernel<decltype(format)>, p, Side::kQueries, p.query_tokens(),
                         p.heads, std::max(p.head_dim, p.value_dim), stream, arguments);
  });
}

}  // namespace jax_na::cuda
