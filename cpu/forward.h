// Forward pass: out = softmax(scale q k^T + bias) v over each query's window, and its log-sum-exp.
//
// A task is one tile of queries of one (batch, kv head). Chunks of keys and values are packed once
// and met by all heads of the group; softmax is online over chunks, in base 2: the queries are
// packed times scale * log2(e).
#pragma once

#include <cmath>
#include <limits>

#include "cpu/bias.h"
#include "cpu/kernels.h"
#include "cpu/meeting.h"

namespace jax_na::JAX_NA_ISA {

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.6931471805599453094;

JAX_NA_INLINE int padded(int features, int lanes) {
  return (features + lanes - 1) / lanes * lanes;
}

JAX_NA_INLINE Tensor query_tensor(const Problem& p, const void* base, int depth, int64_t bytes) {
  return {static_cast<const std::byte*>(base),
          {p.axes[0].query_count, p.axes[1].query_count, p.axes[2].query_count},
          p.heads,
          depth,
          bytes};
}
JAX_NA_INLINE Tensor key_tensor(const Problem& p, const void* base, int depth, int64_t bytes) {
  return {static_cast<const std::byte*>(base),
          {p.axes[0].key_count, p.axes[1].key_count, p.axes[2].key_count},
          p.kv_heads,
          depth,
          bytes};
}
JAX_NA_INLINE Tensor additional_tensor(const Problem& p, const void* base, int depth,
                                       int64_t bytes) {
  return {static_cast<const std::byte*>(base), {1, 1, p.additional}, p.kv_heads, depth, bytes};
}
template <typename T>
JAX_NA_INLINE const T* bias_of(const Problem& p, const void* bias, int64_t batch, int head) {
  return static_cast<const T*>(bias) +
         ((p.bias_batch > 1 ? batch : 0) * p.heads + head) * p.bias_size();
}

// Adds bias to the scores, in base 2. `from` is the entry of row 0 and the first lane of every
// line.
template <typename T, int M>
JAX_NA_INLINE void add_bias(const Meeting<T, M>& meeting, const BiasTable& table, const T* bias,
                            int dx, T* scores) {
  for (int line = 0; line < meeting.line_count; ++line) {
    const T* from = bias + table.at(meeting.distances[line].dz, meeting.distances[line].dy, dx);
    for (int s = 0; s < meeting.per_line; ++s, from += kLanes<T>, scores += M * kLanes<T>)
      for (int m = 0; m < M; ++m)
        store(scores + m * kLanes<T>, load(scores + m * kLanes<T>) + load(from - m));
  }
}

// Hides what a row does not see, and finds each row's largest score.
template <typename T, int M>
JAX_NA_INLINE void mask_and_top(const Meeting<T, M>& meeting, T* scores, Vec<T> (&top)[M]) {
  const Vec<T> hidden = broadcast<T>(-std::numeric_limits<T>::infinity());
  for (int m = 0; m < M; ++m) top[m] = hidden;
  for (int line = 0; line < meeting.line_count; ++line) {
    for (int s = 0; s < meeting.per_line; ++s, scores += M * kLanes<T>) {
      if (meeting.free[s]) {
        for (int m = 0; m < M; ++m) top[m] = maximum<T>(top[m], load(scores + m * kLanes<T>));
      } else {
        for (int m = 0; m < M; ++m) {
          Vec<T> score = select<T>(meeting.masks[s][m], load(scores + m * kLanes<T>), hidden);
          store(scores + m * kLanes<T>, score);
          top[m] = maximum<T>(top[m], score);
        }
      }
    }
  }
}

// One step of the online softmax: scores become weights relative to the new top; the sums so far
// are rescaled.
template <typename T, int M>
JAX_NA_INLINE void softmax_step(const Meeting<T, M>& meeting, T* scores, T* top, T* total,
                                T* const* sums, int width) {
  Vec<T> highest[M];
  mask_and_top(meeting, scores, highest);
  Vec<T> base[M];
  for (int m = 0; m < M; ++m) {
    T now = horizontal_max<T>(highest[m]);
    now = now > top[m] ? now : top[m];
    T shift = now == -std::numeric_limits<T>::infinity()
                  ? T(0)
                  : now;  // nothing seen yet: keep -inf - shift at -inf
    if (top[m] != now && total[m] != 0) {
      T factor = exp2<T>(broadcast<T>(top[m] - shift))[0];
      total[m] *= factor;
      for (int c = 0; c < width; c += kLanes<T>) store(sums[m] + c, factor * load(sums[m] + c));
    }
    top[m] = now;
    base[m] = broadcast<T>(shift);
  }
  Vec<T> sum[M] = {};
  for (int n = 0; n < meeting.count(); ++n, scores += M * kLanes<T>) {
    for (int m = 0; m < M; ++m) {
      Vec<T> weight = exp2<T>(load(scores + m * kLanes<T>) - base[m]);
      store(scores + m * kLanes<T>, weight);
      sum[m] += weight;
    }
  }
  for (int m = 0; m < M; ++m) total[m] += horizontal_sum<T>(sum[m]);
}

template <typename T, int M>
struct ForwardScratch {
  T* query;  // [heads of the group][groups][head_dim][M]
  T* sums;   // [heads of the group][groups][M][width]
  T* top;    // [heads of the group][groups][M]
  T* total;
  T* keys;    // one chunk, transposed
  T* values;  // one chunk, rows
  T* scores;
  T* bias;  // [heads of the group]
  Batch<T, M> batch;
  Tile tile;
  int64_t bytes;

  ForwardScratch(const Problem& p, const Plan& plan, std::byte* base) {
    Arena arena(base);
    int64_t groups =
        static_cast<int64_t>(plan.box[0]) * plan.box[1] * (plan.padded_box_x() / M) * p.group();
    int width = padded(p.value_dim, kLanes<T>);
    int64_t tokens = static_cast<int64_t>(plan.chunk_lines) * plan.pitch();
    query = arena.take<T>(groups * M * p.head_dim);
    sums = arena.take<T>(groups * M * width);
    top = arena.take<T>(groups * M);
    total = arena.take<T>(groups * M);
    keys = arena.take<T>(tokens * p.head_dim);
    values = arena.take<T>(tokens * width);
    scores = arena.take<T>(Batch<T, M>::most_scores(plan));
    bias =
        arena.take<T>(p.bias_batch > 0 ? BiasTable::of(p, M, kLanes<T>).elements() * p.group() : 0);
    take_batch(arena, plan, batch);
    take_tile(arena, plan, tile);
    bytes = arena.used();
  }
};

template <typename T, int M>
void forward_tile(const ForwardArgs& args, const Codec<T>& codec, int64_t task, std::byte* base) {
  const Problem& p = *args.problem;
  const Plan& plan = *args.plan;
  ForwardScratch<T, M> scratch(p, plan, base);
  Tile& tile = scratch.tile;
  tile.kv_head = static_cast<int>(
      task % p.kv_heads);  // heads of one tile are neighbours in memory: side by side in time
  tile.batch = task / p.kv_heads / plan.tiles();
  set_tile(p, plan, task / p.kv_heads % plan.tiles(), tile);

  const int heads = p.group();
  const int across = (tile.axes[2].count + M - 1) / M;
  const int groups = tile.axes[0].count * tile.axes[1].count * across;
  const int width = padded(p.value_dim, kLanes<T>);
  const int first_head = tile.kv_head * heads;
  const bool biased = p.bias_batch > 0;
  const BiasTable table = BiasTable::of(p, M, kLanes<T>);

  const Tensor query = query_tensor(p, args.query, p.head_dim, codec.bytes);
  for (int h = 0; h < heads; ++h) {
    pack_groups(codec, tile, query, first_head + h, static_cast<T>(p.scale * kLog2E), M,
                scratch.query + static_cast<int64_t>(h) * groups * M * p.head_dim);
    if (biased)
      pack_bias(table, bias_of<T>(p, args.bias, tile.batch, first_head + h), static_cast<T>(kLog2E),
                false, scratch.bias + h * table.elements());
  }
  const int64_t rows = static_cast<int64_t>(heads) * groups * M;
  for (int64_t i = 0; i < rows * width; ++i) scratch.sums[i] = 0;
  for (int64_t i = 0; i < rows; ++i) {
    scratch.top[i] = -std::numeric_limits<T>::infinity();
    scratch.total[i] = 0;
  }

  auto stream = [&](const Chunk& chunk, const Tensor& key, const Tensor& value, int pitch) {
    pack_transposed(codec, tile, chunk, key, tile.kv_head, T(1), scratch.keys, pitch);
    pack_rows(codec, tile, chunk, value, tile.kv_head, T(1), scratch.values, pitch, width);
    const Batch<T, M>& batch = scratch.batch;
    auto scores = [&](int i) { return scratch.scores + batch[i].scores; };
    for_each_batch(tile, chunk, scratch.batch, [&] {
      for (int h = 0; h < heads; ++h) {
        auto row = [&](int i) { return (static_cast<int64_t>(h) * groups + batch[i].group) * M; };
        T* sums[Batch<T, M>::kMost][M];
        for (int i = 0; i < batch.count; ++i) {
          for (int m = 0; m < M; ++m) sums[i][m] = scratch.sums + (row(i) + m) * width;
          scores_of<T, M>(scratch.query + row(i) * p.head_dim, scratch.keys, pitch, p.head_dim,
                          batch[i].strips, batch[i].count(), scores(i));
        }
        for (int i = 0; i < batch.count; ++i) {
          if (biased && !chunk.additional)
            add_bias(batch[i], table, scratch.bias + h * table.elements(),
                     batch[i].column - (tile.axes[2].begin + batch.x), scores(i));
          softmax_step(batch[i], scores(i), scratch.top + row(i), scratch.total + row(i), sums[i],
                       width);
        }
        for (int i = 0; i < batch.count; ++i)
          accumulate_met(batch[i], scores(i), scratch.values, pitch, width, sums[i]);
      }
    });
  };
  const Tensor key = key_tensor(p, args.key, p.head_dim, codec.bytes);
  const Tensor value = key_tensor(p, args.value, p.value_dim, codec.bytes);
  for_each_grid_chunk(plan, tile,
                      [&](const Chunk& chunk) { stream(chunk, key, value, plan.pitch()); });
  const Tensor more_keys = additional_tensor(p, args.additional_keys, p.head_dim, codec.bytes);
  const Tensor more_values = additional_tensor(p, args.additional_values, p.value_dim, codec.bytes);
  for_each_additional_chunk(plan, p.additional, [&](const Chunk& chunk) {
    stream(chunk, more_keys, more_values, plan.pitch());
  });

  const Tensor out = query_tensor(p, args.out, p.value_dim, codec.bytes);
  const Tensor lse = query_tensor(p, args.lse, 1, sizeof(T));
  const Codec<T> plain = codec_of<T>();
  const T one = 1;
  for (int64_t row = 0; row < rows; ++row) {  // top becomes the LSE, total the factor of a row
    const T total = scratch.total[row];
    scratch.top[row] = (scratch.top[row] + std::log2(total)) * static_cast<T>(kLn2);
    scratch.total[row] = total == 0 ? T(0) : 1 / total;  // sees nothing: out 0, LSE -inf
  }
  for (int h = 0; h < heads; ++h) {
    const int64_t row = static_cast<int64_t>(h) * groups * M;
    store_own_rows(codec, tile, out, first_head + h, M, scratch.sums + row * width, width,
                   scratch.total + row, 1);
    store_own_rows(plain, tile, lse, first_head + h, M, scratch.top + row, 1, &one, 0);
  }
}

}  // namespace jax_na::JAX_NA_ISA
