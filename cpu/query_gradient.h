// The query gradient: it keeps queries and streams keys, as the forward pass does. It also gathers
// the sums over queries that belong to no single key of the grid (additional tokens, bias), a
// partial one for each part of the tiles.
#pragma once

#include "cpu/score_gradient.h"

namespace jax_na::JAX_NA_ISA {

// Adds dS to the table of its distances.
template <typename T, int M>
JAX_NA_INLINE void gather_bias(const Meeting<T, M>& meeting, const BiasTable& table,
                               const T* gradient, int dx, T* bias) {
  for (int line = 0; line < meeting.line_count; ++line) {
    T* to = bias + table.at(meeting.distances[line].dz, meeting.distances[line].dy, dx);
    for (int s = 0; s < meeting.per_line; ++s, to += kLanes<T>)
      for (int m = 0; m < M; ++m, gradient += kLanes<T>)
        store(to - m, load(to - m) + load(gradient));
  }
}

// Which tiles a part of the query gradient's tasks has.
JAX_NA_INLINE Interval part_of(int64_t tiles, int64_t parts, int64_t part) {
  return {static_cast<int>(tiles * part / parts), static_cast<int>(tiles * (part + 1) / parts)};
}

template <typename T, int M>
struct QueryGradientScratch {
  T* query;     // [heads of the group][groups][head_dim][M], times scale * log2(e)
  T* dout;      // [heads of the group][groups][value_dim][M]
  T* lse2;      // [heads of the group][groups][M]: LSE * log2(e)
  T* delta;     // [heads of the group][groups][M]
  T* sums;      // [heads of the group][groups][M][key width]
  T* keys;      // one chunk, transposed
  T* values;    // one chunk, transposed
  T* key_rows;  // one chunk, rows
  T* scores;
  T* dweights;
  T* query_rows;  // one group, rows
  T* dout_rows;
  T* bias;   // [heads of the group]
  T* dbias;  // [heads of the group]
  Batch<T, M> batch;
  Tile tile;
  int64_t bytes;

  QueryGradientScratch(const Problem& p, const Plan& plan, std::byte* base) {
    Arena arena(base);
    int64_t groups =
        static_cast<int64_t>(plan.box[0]) * plan.box[1] * (plan.padded_box_x() / M) * p.group();
    int key_width = padded(p.head_dim, kLanes<T>), value_width = padded(p.value_dim, kLanes<T>);
    int64_t tokens = static_cast<int64_t>(plan.chunk_lines) * plan.pitch();
    int64_t table = p.bias_batch > 0 ? BiasTable::of(p, M, kLanes<T>).elements() * p.group() : 0;
    query = arena.take<T>(groups * M * p.head_dim);
    dout = arena.take<T>(groups * M * p.value_dim);
    lse2 = arena.take<T>(groups * M);
    delta = arena.take<T>(groups * M);
    sums = arena.take<T>(groups * M * key_width);
    keys = arena.take<T>(tokens * p.head_dim);
    values = arena.take<T>(tokens * p.value_dim);
    key_rows = arena.take<T>(tokens * key_width);
    scores = arena.take<T>(Batch<T, M>::most_scores(plan));
    dweights = arena.take<T>(Batch<T, M>::most_scores(plan));
    query_rows = arena.take<T>(static_cast<int64_t>(M) * key_width);
    dout_rows = arena.take<T>(static_cast<int64_t>(M) * value_width);
    bias = arena.take<T>(table);
    dbias = arena.take<T>(table);
    take_batch(arena, plan, batch);
    take_tile(arena, plan, tile);
    bytes = arena.used();
  }
};

// One part of the tiles of one (batch, kv head).
template <typename T, int M>
void query_gradient_part(const BackwardArgs& args, const Codec<T>& codec, int64_t task,
                         std::byte* base) {
  const Problem& p = *args.problem;
  const Plan& plan = *args.plan;
  QueryGradientScratch<T, M> scratch(p, plan, base);
  Tile& tile = scratch.tile;
  tile.kv_head = static_cast<int>(task % p.kv_heads);
  const int64_t part = task / p.kv_heads % args.parts;
  tile.batch = task / p.kv_heads / args.parts;

  const int heads = p.group();
  const int first_head = tile.kv_head * heads;
  const int key_width = padded(p.head_dim, kLanes<T>), value_width = padded(p.value_dim, kLanes<T>);
  const bool biased = p.bias_batch > 0;
  const BiasTable table = BiasTable::of(p, M, kLanes<T>);
  const int64_t shared =
      ((tile.batch * p.kv_heads + tile.kv_head) * args.parts + part) * p.additional;
  T* partial_keys = static_cast<T*>(args.partial_keys) + shared * key_width;
  T* partial_values = static_cast<T*>(args.partial_values) + shared * value_width;
  for (int64_t i = 0; i < static_cast<int64_t>(p.additional) * key_width; ++i) partial_keys[i] = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(p.additional) * value_width; ++i)
    partial_values[i] = 0;
  for (int h = 0; biased && h < heads; ++h) {
    pack_bias(table, bias_of<T>(p, args.bias, tile.batch, first_head + h), static_cast<T>(kLog2E),
              false, scratch.bias + h * table.elements());
    for (int64_t i = 0; i < table.elements(); ++i) scratch.dbias[h * table.elements() + i] = 0;
  }

  const Tensor query = query_tensor(p, args.query, p.head_dim, codec.bytes);
  const Tensor dout = query_tensor(p, args.dout, p.value_dim, codec.bytes);
  const Tensor dquery = query_tensor(p, args.dquery, p.head_dim, codec.bytes);
  const Tensor lse = query_tensor(p, args.lse, 1, sizeof(T));
  const Tensor delta = query_tensor(p, args.delta, 1, sizeof(T));
  const Codec<T> plain = codec_of<T>();
  const Interval tiles = part_of(plan.tiles(), args.parts, part);
  for (int index = tiles.begin; index < tiles.end; ++index) {
    set_tile(p, plan, index, tile);
    const int across = (tile.axes[2].count + M - 1) / M;
    const int groups = tile.axes[0].count * tile.axes[1].count * across;

    for (int h = 0; h < heads; ++h) {
      int64_t row = static_cast<int64_t>(h) * groups * M;
      pack_groups(codec, tile, query, first_head + h, static_cast<T>(p.scale * kLog2E), M,
                  scratch.query + row * p.head_dim);
      pack_groups(codec, tile, dout, first_head + h, T(1), M, scratch.dout + row * p.value_dim);
      pack_groups(plain, tile, lse, first_head + h, static_cast<T>(kLog2E), M, scratch.lse2 + row);
      pack_groups(plain, tile, delta, first_head + h, T(1), M, scratch.delta + row);
    }
    const int64_t rows = static_cast<int64_t>(heads) * groups * M;
    for (int64_t i = 0; i < rows * key_width; ++i) scratch.sums[i] = 0;

    auto stream = [&](const Chunk& chunk, const Tensor& key, const Tensor& value) {
      const int pitch = plan.pitch();
      pack_both(codec, tile, chunk, key, tile.kv_head, T(1), scratch.keys, scratch.key_rows, pitch,
                key_width);
      pack_transposed(codec, tile, chunk, value, tile.kv_head, T(1), scratch.values, pitch);
      const Batch<T, M>& batch = scratch.batch;
      auto scores = [&](int i) { return scratch.scores + batch[i].scores; };
      auto dweights = [&](int i) { return scratch.dweights + batch[i].scores; };
      for_each_batch(tile, chunk, scratch.batch, [&] {
        const int real = min_of(M, tile.axes[2].count - batch.x);
        for (int h = 0; h < heads; ++h) {
          auto row = [&](int i) { return (static_cast<int64_t>(h) * groups + batch[i].group) * M; };
          for (int i = 0; i < batch.count; ++i)
            scores_of<T, M>(scratch.query + row(i) * p.head_dim, scratch.keys, pitch, p.head_dim,
                            batch[i].strips, batch[i].count(), scores(i));
          for (int i = 0; i < batch.count; ++i)
            scores_of<T, M>(scratch.dout + row(i) * p.value_dim, scratch.values, pitch, p.value_dim,
                            batch[i].strips, batch[i].count(), dweights(i));
          for (int i = 0; i < batch.count; ++i) {
            const int dx = batch[i].column - (tile.axes[2].begin + batch.x);
            if (biased && !chunk.additional)
              add_bias(batch[i], table, scratch.bias + h * table.elements(), dx, scores(i));
            gradient_by_row(batch[i], scores(i), dweights(i), scratch.lse2 + row(i),
                            scratch.delta + row(i));
            // Rows past the end of the line are no queries: nothing may be added.
            for (int m = real; m < M; ++m) {
              for (int n = 0; n < batch[i].count(); ++n) {
                store(scores(i) + (n * M + m) * kLanes<T>, Vec<T>{});
                store(dweights(i) + (n * M + m) * kLanes<T>, Vec<T>{});
              }
            }
            if (biased && !chunk.additional)
              gather_bias(batch[i], table, dweights(i), dx, scratch.dbias + h * table.elements());
          }
          for (int i = 0; i < batch.count; ++i) {
            T* sums[M];
            for (int m = 0; m < M; ++m) sums[m] = scratch.sums + (row(i) + m) * key_width;
            accumulate_met(batch[i], dweights(i), scratch.key_rows, pitch, key_width, sums);
          }
          for (int i = 0; chunk.additional && i < batch.count; ++i) {
            const T* q = scratch.query + row(i) * p.head_dim;
            const T* g = scratch.dout + row(i) * p.value_dim;
            const T* query_rows[M];
            const T* dout_rows[M];
            for (int m = 0; m < M; ++m) {
              query_rows[m] = scratch.query_rows + static_cast<int64_t>(m) * key_width;
              dout_rows[m] = scratch.dout_rows + static_cast<int64_t>(m) * value_width;
              for (int d = 0; d < key_width; ++d)
                scratch.query_rows[m * key_width + d] = d < p.head_dim ? q[d * M + m] : T(0);
              for (int d = 0; d < value_width; ++d)
                scratch.dout_rows[m * value_width + d] = d < p.value_dim ? g[d * M + m] : T(0);
            }
            const int64_t first = chunk.columns.begin;
            scatter_rows<T, M>(dweights(i), batch[i].strips, batch[i].count(),
                               partial_keys + first * key_width, pitch, key_width, query_rows);
            scatter_rows<T, M>(scores(i), batch[i].strips, batch[i].count(),
                               partial_values + first * value_width, pitch, value_width, dout_rows);
          }
        }
      });
    };
    const Tensor key = key_tensor(p, args.key, p.head_dim, codec.bytes);
    const Tensor value = key_tensor(p, args.value, p.value_dim, codec.bytes);
    for_each_grid_chunk(plan, tile, [&](const Chunk& chunk) { stream(chunk, key, value); });
    const Tensor more_keys = additional_tensor(p, args.additional_keys, p.head_dim, codec.bytes);
    const Tensor more_values =
        additional_tensor(p, args.additional_values, p.value_dim, codec.bytes);
    for_each_additional_chunk(plan, p.additional,
                              [&](const Chunk& chunk) { stream(chunk, more_keys, more_values); });

    const T scale = static_cast<T>(p.scale);
    for (int h = 0; h < heads; ++h)
      store_own_rows(codec, tile, dquery, first_head + h, M,
                     scratch.sums + static_cast<int64_t>(h) * groups * M * key_width, key_width,
                     &scale, 0);
  }

  for (int h = 0; biased && h < heads; ++h) {
    int64_t at = ((tile.batch * p.heads + first_head + h) * args.parts + part) * p.bias_size();
    T* to = static_cast<T*>(args.partial_bias) + at;
    for (int64_t i = 0; i < p.bias_size(); ++i) to[i] = 0;
    unpack_bias(table, scratch.dbias + h * table.elements(), to);
  }
}

// Adds up the parts, in order; a task is one (batch, kv head).
template <typename T>
void reduce_parts(const BackwardArgs& args, const Codec<T>& codec, int64_t task, std::byte*) {
  const Problem& p = *args.problem;
  const int key_width = padded(p.head_dim, kLanes<T>), value_width = padded(p.value_dim, kLanes<T>);
  auto sum_into_first = [&](T* parts, int64_t size) {
    for (int64_t part = 1; part < args.parts; ++part)
      for (int64_t i = 0; i < size; ++i) parts[i] += parts[part * size + i];
  };
  const int kv_head = static_cast<int>(task % p.kv_heads);
  const int64_t batch = task / p.kv_heads;
  auto finish = [&](void* partial, int width, int depth, T factor, void* to) {
    int64_t size = static_cast<int64_t>(p.additional) * width;
    T* sums = static_cast<T*>(partial) + task * args.parts * size;
    sum_into_first(sums, size);
    const Tensor tensor = additional_tensor(p, to, depth, codec.bytes);
    for (int s = 0; s < p.additional; ++s)
      codec.store_rows(sums + static_cast<int64_t>(s) * width, width, 1, depth, &factor, 0,
                       const_cast<std::byte*>(tensor.at(batch, 0, 0, s, kv_head)), 0);
  };
  // The queries were packed times scale * log2(e), so their sums need only the ln(2).
  finish(args.partial_keys, key_width, p.head_dim, static_cast<T>(kLn2), args.dadditional_keys);
  finish(args.partial_values, value_width, p.value_dim, T(1), args.dadditional_values);
  for (int h = 0; p.bias_batch > 0 && h < p.group(); ++h) {
    int64_t head = batch * p.heads + kv_head * p.group() + h;
    T* sums = static_cast<T*>(args.partial_bias) + head * args.parts * p.bias_size();
    sum_into_first(sums, p.bias_size());
    std::memcpy(static_cast<T*>(args.dbias) + head * p.bias_size(), sums,
                static_cast<size_t>(p.bias_size()) * sizeof(T));
  }
}

}  // namespace jax_na::JAX_NA_ISA
