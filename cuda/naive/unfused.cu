// The kernels of the two halves of neighborhood attention.
#include "cuda/naive/unfused.h"

#include "cuda/naive/launch_groups.h"
#include "cuda/naive/passes.h"
#include "cuda/naive/slots.h"
#include "cuda/naive/source.h"

namespace jax_na::cuda {
namespace naive {
namespace {

// The slots of one query and head.
template <typename T>
__device__ __forceinline__ T* slots_of(const Unfused& arguments, int64_t query_row) {
  const Problem& problem = arguments.problem;
  return static_cast<T*>(arguments.slots) +
         query_row * (window_slots(problem) + problem.additional);
}

// A group to each query and head.
template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    products_kernel(const __grid_constant__ Groups groups,
                    const __grid_constant__ Unfused arguments) {
  using T = typename F::T;
  using R = typename F::R;
  const Problem& problem = arguments.problem;
  const int head_dim = problem.head_dim;
  const Place place = groups.place();
  const int kv_head = place.head / problem.group();
  const int64_t row =
      (place.entry * problem.query_tokens() + place.item) * problem.heads + place.head;
  const Row<F> query =
      load_row<F>(groups, static_cast<const T*>(arguments.query_rows) + row * head_dim, head_dim);
  const R scale = static_cast<R>(problem.scale), invisible = static_cast<R>(arguments.invisible);
  const R* bias = bias_of<R>(problem, arguments.bias, place.entry, place.head);
  T* to = slots_of<T>(arguments, row);

  const auto keys = Source<F>::of(arguments.key_rows, place.entry, problem.key_tokens(),
                                  problem.kv_heads, kv_head, head_dim);
  const Box box = box_of<Side::kQueries>(problem, nullptr, groups, place.item, true);
  const Span span = slot_span(problem, box);
  walk<F::kBatch>(box, span, [&](const Batch& batch) {
    Row<F> rows[F::kBatch];
    R scores[F::kBatch];
    keys.load(groups, batch, rows);
    products(groups, query, rows, scores);
    if (!place.active) return;
#pragma unroll
    for (int i = 0; i < F::kBatch; ++i) {
      const bool in_window = batch.x + i - span.begin[2] < span.count[2];
      if (!in_window || (i & (groups.lanes() - 1)) != groups.lane()) continue;
      R score = scale * scores[i];
      if (bias != nullptr && batch.shows(i))
        score += bias[bias_entry<Side::kQueries>(problem, box, batch, i)];
      to[slot_of<Side::kQueries>(problem, box, batch, i)] =
          static_cast<T>(batch.shows(i) ? score : invisible);
    }
  });

  if (problem.additional == 0) return;
  const auto more = Source<F>::of(arguments.additional_rows, place.entry, problem.additional,
                                  problem.kv_heads, kv_head, head_dim);
  const Box line = line_box(0, problem.additional);
  to += window_slots(problem);
  walk<F::kBatch>(line, span_of(line), [&](const Batch& batch) {
    Row<F> rows[F::kBatch];
    R scores[F::kBatch];
    more.load(groups, batch, rows);
    products(groups, query, rows, scores);
#pragma unroll
    for (int i = 0; i < F::kBatch; ++i)
      if (place.active && batch.shows(i) && (i & (groups.lanes() - 1)) == groups.lane())
        to[batch.token(i)] = static_cast<T>(scale * scores[i]);
  });
}

// A group to each query and head.
template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    sums_kernel(const __grid_constant__ Groups groups, const __grid_constant__ Unfused arguments) {
  using T = typename F::T;
  using R = typename F::R;
  const Problem& problem = arguments.problem;
  const int head_dim = problem.head_dim;
  const Place place = groups.place();
  const int kv_head = place.head / problem.group();
  const int64_t row =
      (place.entry * problem.query_tokens() + place.item) * problem.heads + place.head;
  const T* from = slots_of<T>(arguments, row);
  Row<F> sum = {};
  // The rows of a box, given the slot of each.
  const auto add = [&](const Box& box, const Source<F>& source, auto slot) {
    walk<F::kBatch>(box, span_of(box), [&](const Batch& batch) {
      Row<F> rows[F::kBatch];
      source.load(groups, batch, rows);
#pragma unroll
      for (int i = 0; i < F::kBatch; ++i)
        if (batch.shows(i)) sum.add(to_real(from[slot(batch, i)]), rows[i]);
    });
  };
  const Box window = box_of<Side::kQueries>(problem, nullptr, groups, place.item, place.active);
  add(window,
      Source<F>::of(arguments.key_rows, place.entry, problem.key_tokens(), problem.kv_heads,
                    kv_head, head_dim),
      [&](const Batch& batch, int i) {
        return slot_of<Side::kQueries>(problem, window, batch, i);
      });
  if (problem.additional > 0)
    add(line_box(0, place.active ? problem.additional : 0),
        Source<F>::of(arguments.additional_rows, place.entry, problem.additional, problem.kv_heads,
                      kv_head, head_dim),
        [&](const Batch& batch, int i) { return window_slots(problem) + batch.token(i); });
  if (!place.active) return;
  sum.scale(static_cast<R>(problem.scale));
  store_row(groups, sum, static_cast<T*>(arguments.query_rows) + row * head_dim, head_dim);
}

// Adds the rows of a box of queries, of all heads of a key head, given each one's slot.
template <typename F, typename Slot>
__device__ __forceinline__ Row<F> sum_queries(const Groups& groups, const Unfused& arguments,
                                              const Box& box, int64_t entry, int kv_head,
                                              Slot slot) {
  using T = typename F::T;
  const Problem& problem = arguments.problem;
  const int64_t tokens = problem.query_tokens();
  const Span span = span_of(box);
  Row<F> sum = {};
  for (int n = 0; n < problem.group(); ++n) {
    const int head = kv_head * problem.group() + n;
    const auto queries =
        Source<F>::of(arguments.query_rows, entry, tokens, problem.heads, head, problem.head_dim);
    walk<F::kBatch>(box, span, [&](const Batch& batch) {
      Row<F> rows[F::kBatch];
      queries.load(groups, batch, rows);
#pragma unroll
      for (int i = 0; i < F::kBatch; ++i) {
        if (!batch.shows(i)) continue;
        const int64_t row = (entry * tokens + batch.token(i)) * problem.heads + head;
        sum.add(to_real(slots_of<const T>(arguments, row)[slot(batch, i)]), rows[i]);
      }
    });
  }
  sum.scale(static_cast<typename F::R>(problem.scale));
  return sum;
}

// A group to each key and head.
template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    transposed_kernel(const __grid_constant__ Groups groups,
                      const __grid_constant__ Unfused arguments) {
  const Problem& problem = arguments.problem;
  const Place place = groups.place();
  const int64_t row =
      (place.entry * problem.key_tokens() + place.item) * problem.kv_heads + place.head;
  const Box box = box_of<Side::kKeys>(problem, nullptr, groups, place.item, place.active);
  const Row<F> sum = sum_queries<F>(
      groups, arguments, box, place.entry, place.head,
      [&](const Batch& batch, int i) { return slot_of<Side::kKeys>(problem, box, batch, i); });
  if (place.active)
    store_row(groups, sum, static_cast<typename F::T*>(arguments.key_rows) + row * problem.head_dim,
              problem.head_dim);
}

// Items are [parts of the queries, additional tokens].
template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    transposed_additional_kernel(const __grid_constant__ Groups groups,
                                 const __grid_constant__ Unfused arguments,
                                 const __grid_constant__ Parts parts, typename F::R* sums) {
  const Problem& problem = arguments.problem;
  const Place place = groups.place();
  const int part = place.item / problem.additional, token = place.item % problem.additional;
  const Interval run = parts.tokens(part, problem.query_tokens());
  const Row<F> sum = sum_queries<F>(
      groups, arguments, line_box(run.begin, place.active ? run.size() : 0), place.entry,
      place.head, [&](const Batch&, int) { return window_slots(problem) + token; });
  const int64_t row =
      ((part * problem.batch + place.entry) * problem.additional + token) * problem.kv_heads +
      place.head;
  if (place.active) store_sums(groups, sum, sums + row * problem.head_dim, problem.head_dim);
}

// A lane to each part of the queries and each head, with a table of its own.
template <typename F>
__global__ void __launch_bounds__(kThreads, 2)
    bias_sums_kernel(const __grid_constant__ Groups groups,
                     const __grid_constant__ Unfused arguments, const __grid_constant__ Parts parts,
                     typename F::R* tables) {
  const Problem& problem = arguments.problem;
  const int64_t tokens = problem.query_tokens();
  const Place place = groups.place();
  auto* table = tables + ((place.item * problem.batch + place.entry) * problem.heads + place.head) *
                             problem.bias_size();
  const Interval run = parts.tokens(place.item, tokens);
  for (int i = 0; i < parts.run; ++i) {
    const bool active = place.active && i < run.size();
    const int token = active ? run.begin + i : 0;
    const int64_t row = (place.entry * tokens + token) * problem.heads + place.head;
    const auto* from = slots_of<const typename F::T>(arguments, row);
    const Box box = box_of<Side::kQueries>(problem, nullptr, groups, token, active);
    walk<1>(box, span_of(box), [&](const Batch& batch) {
      if (batch.shows(0))
        table[bias_entry<Side::kQueries>(problem, box, batch, 0)] +=
            to_real(from[slot_of<Side::kQueries>(problem, box, batch, 0)]);
    });
  }
}

Parts additional_parts(const Problem& problem, Stored stored) {
  const int64_t rows = problem.batch * problem.additional * problem.kv_heads;
  return Parts::of(problem.query_tokens(), rows, rows * problem.head_dim * real_bytes(stored));
}

Parts bias_parts(const Problem& problem, Stored stored) {
  const int64_t heads = problem.batch * problem.heads;
  return Parts::of(problem.query_tokens(), heads, heads * problem.bias_size() * real_bytes(stored));
}

}  // namespace
}  // namespace naive

std::string unfused_products(const Unfused& arguments, cudaStream_t stream) {
  using namespace naive;
  const Problem& p = arguments.problem;
  return with_format(arguments.stored, p.head_dim, p.head_dim, [&](auto format) {
    return launch_groups(products_kernel<decltype(format)>, p, Side::kQueries, p.query_tokens(),
                         p.heads, p.head_dim, stream, arguments);
  });
}

std::string unfused_sums(const Unfused& arguments, cudaStream_t stream) {
  using namespace naive;
  const Problem& p = arguments.problem;
  return with_format(arguments.stored, p.head_dim, p.head_dim, [&](auto format) {
    return launch_groups(sums_kernel<decltype(format)>, p, Side::kQueries, p.query_tokens(),
                         p.heads, p.head_dim, stream, arguments);
  });
}

int64_t unfused_transposed_workspace(const Problem& problem, Stored stored) {
  return naive::additional_parts(problem, stored).count * problem.batch * problem.additional *
         problem.kv_heads * problem.head_dim * naive::real_bytes(stored);
}

std::string unfused_transposed(const Unfused& arguments, cudaStream_t stream) {
  using namespace naive;
  const Problem& p = arguments.problem;
  return with_format(arguments.stored, p.head_dim, p.head_dim, [&](auto format) {
    using F = decltype(format);
    std::string error = launch_groups(transposed_kernel<F>, p, Side::kKeys, p.key_tokens(),
                                      p.kv_heads, p.head_dim, stream, arguments);
    if (!error.empty() || p.additional == 0) return error;
    const Parts parts = additional_parts(p, arguments.stored);
    error = launch_groups(transposed_additional_kernel<F>, p, Side::kQueries,
                          int64_t{parts.count} * p.additional, p.kv_heads, p.head_dim, stream,
                          arguments, parts, static_cast<typename F::R*>(arguments.workspace));
    if (!error.empty()) return error;
    return sum_parts(arguments.workspace, parts.count,
                     p.batch * p.additional * p.kv_heads * p.head_dim, arguments.stored,
                     arguments.additional_rows, stream);
  });
}

int64_t unfused_bias_sums_workspace(const Problem& problem, Stored stored) {
  return naive::bias_parts(problem, stored).count * problem.batch * problem.heads *
         problem.bias_size() * naive::real_bytes(stored);
}

std::string unfused_bias_sums(const Unfused& arguments, cudaStream_t stream) {
  using namespace naive;
  const Problem& p = arguments.problem;
  const cudaError_t status = cudaMemsetAsync(
      arguments.workspace, 0, static_cast<size_t>(unfused_bias_sums_workspace(p, arguments.stored)),
      stream);
  if (status != cudaSuccess)
    return std::string("clearing the bias's sums: ") + cudaGetErrorString(status);
  const Parts parts = bias_parts(p, arguments.stored);
  const std::string error = with_element(arguments.stored, [&](auto element) {
    using F = Format<decltype(element), false>;
    return launch_groups(bias_sums_kernel<F>, p, Side::kQueries, parts.count, p.heads, 1, stream,
                         arguments, parts, static_cast<typename F::R*>(arguments.workspace));
  });
  if (!error.empty()) return error;
  const Stored real = arguments.stored == Stored::kFloat64 ? Stored::kFloat64 : Stored::kFloat32;
  return sum_parts(arguments.workspace, parts.count, p.batch * p.heads * p.bias_size(), real,
                   arguments.bias, stream);
}

std::string load_unfused_kernels() {
  using namespace naive;
  std::string error = load_sum_parts();
  if (error.empty())
    error = load_all([](auto format) { return products_kernel<decltype(format)>; });
  if (error.empty()) error = load_all([](auto format) { return sums_kernel<decltype(format)>; });
  if (error.empty())
    error = load_all([](auto format) { return transposed_kernel<decltype(format)>; });
  if (error.empty())
    error = load_all([](auto format) { return transposed_additional_kernel<decltype(format)>; });
  if (!error.empty()) return error;
  for (Stored stored : {Stored::kFloat32, Stored::kFloat64, Stored::kBFloat16, Stored::kFloat16}) {
    error = with_element(stored, [](auto element) {
      return load(bias_sums_kernel<Format<decltype(element), false>>);
    });
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace jax_na::cuda
