// The key gradient: it keeps keys and streams queries.
#pragma once

#include "cpu/score_gradient.h"

namespace jax_na::JAX_NA_ISA {

template <typename T, int M>
struct KeyGradientScratch {
  T* key;         // [groups][head_dim][M]
  T* value;       // [groups][value_dim][M]
  T* dkey;        // [groups][M][key width]
  T* dvalue;      // [groups][M][value width]
  T* queries;     // one chunk, transposed, times scale * log2(e)
  T* douts;       // one chunk, transposed
  T* query_rows;  // one chunk, rows, times scale * log2(e)
  T* dout_rows;   // one chunk, rows
  T* lse2;        // one chunk
  T* delta;       // one chunk
  T* scores;
  T* dweights;
  T* bias;
  Batch<T, M> batch;
  Tile tile;
  int64_t bytes;

  KeyGradientScratch(const Problem& p, const Plan& plan, std::byte* base) {
    Arena arena(base);
    int64_t groups = static_cast<int64_t>(plan.box[0]) * plan.box[1] * (plan.padded_box_x() / M);
    int key_width = padded(p.head_dim, kLanes<T>), value_width = padded(p.value_dim, kLanes<T>);
    int64_t tokens = static_cast<int64_t>(plan.chunk_lines) * plan.pitch();
    key = arena.take<T>(groups * M * p.head_dim);
    value = arena.take<T>(groups * M * p.value_dim);
    dkey = arena.take<T>(groups * M * key_width);
    dvalue = arena.take<T>(groups * M * value_width);
    queries = arena.take<T>(tokens * p.head_dim);
    douts = arena.take<T>(tokens * p.value_dim);
    query_rows = arena.take<T>(tokens * key_width);
    dout_rows = arena.take<T>(tokens * value_width);
    lse2 = arena.take<T>(tokens);
    delta = arena.take<T>(tokens);
    scores = arena.take<T>(Batch<T, M>::most_scores(plan));
    dweights = arena.take<T>(Batch<T, M>::most_scores(plan));
    bias = arena.take<T>(p.bias_batch > 0 ? BiasTable::of(p, M, kLanes<T>).elements() : 0);
    take_batch(arena, plan, batch);
    take_tile(arena, plan, tile);
    bytes = arena.used();
  }
};

// One tile of keys of one (batch, kv head); the heads of the group add up.
template <typename T, int M>
void key_gradient_tile(const BackwardArgs& args, const Codec<T>& codec, int64_t task,
                       std::byte* base) {
  const Problem& p = *args.problem;
  const Plan& plan = *args.plan;
  KeyGradientScratch<T, M> scratch(p, plan, base);
  Tile& tile = scratch.tile;
  tile.kv_head = static_cast<int>(task % p.kv_heads);
  tile.batch = task / p.kv_heads / plan.tiles();
  set_tile(p, plan, task / p.kv_heads % plan.tiles(), tile);

  const int across = (tile.axes[2].count + M - 1) / M;
  const int64_t groups = static_cast<int64_t>(tile.axes[0].count) * tile.axes[1].count * across;
  const int key_width = padded(p.head_dim, kLanes<T>), value_width = padded(p.value_dim, kLanes<T>);
  const int pitch = plan.pitch();
  const bool biased = p.bias_batch > 0;
  const BiasTable table = BiasTable::of(p, M, kLanes<T>);

  pack_groups(codec, tile, key_tensor(p, args.key, p.head_dim, codec.bytes), tile.kv_head, T(1), M,
              scratch.key);
  pack_groups(codec, tile, key_tensor(p, args.value, p.value_dim, codec.bytes), tile.kv_head, T(1),
              M, scratch.value);
  for (int64_t i = 0; i < groups * M * key_width; ++i) scratch.dkey[i] = 0;
  for (int64_t i = 0; i < groups * M * value_width; ++i) scratch.dvalue[i] = 0;

  const Tensor query = query_tensor(p, args.query, p.head_dim, codec.bytes);
  const Tensor dout = query_tensor(p, args.dout, p.value_dim, codec.bytes);
  const Tensor lse = query_tensor(p, args.lse, 1, sizeof(T));
  const Tensor delta = query_tensor(p, args.delta, 1, sizeof(T));
  const Codec<T> plain = codec_of<T>();
  for (int head = tile.kv_head * p.group(); head < (tile.kv_head + 1) * p.group(); ++head) {
    if (biased)
      pack_bias(table, bias_of<T>(p, args.bias, tile.batch, head), static_cast<T>(kLog2E), true,
                scratch.bias);
    for_each_grid_chunk(plan, tile, [&](const Chunk& chunk) {
      const T scale2 = static_cast<T>(p.scale * kLog2E);
      pack_both(codec, tile, chunk, query, head, scale2, scratch.queries, scratch.query_rows, pitch,
                key_width);
      pack_both(codec, tile, chunk, dout, head, T(1), scratch.douts, scratch.dout_rows, pitch,
                value_width);
      pack_transposed(plain, tile, chunk, lse, head, static_cast<T>(kLog2E), scratch.lse2, pitch);
      pack_transposed(plain, tile, chunk, delta, head, T(1), scratch.delta, pitch);
      const Batch<T, M>& batch = scratch.batch;
      for_each_batch(tile, chunk, scratch.batch, [&] {
        auto row = [&](int i) { return static_cast<int64_t>(batch[i].group) * M; };
        auto scores = [&](int i) { return scratch.scores + batch[i].scores; };
        auto dweights = [&](int i) { return scratch.dweights + batch[i].scores; };
        for (int i = 0; i < batch.count; ++i)
          scores_of<T, M>(scratch.key + row(i) * p.head_dim, scratch.queries, pitch, p.head_dim,
                          batch[i].strips, batch[i].count(), scores(i));
        for (int i = 0; i < batch.count; ++i)
          scores_of<T, M>(scratch.value + row(i) * p.value_dim, scratch.douts, pitch, p.value_dim,
                          batch[i].strips, batch[i].count(), dweights(i));
        for (int i = 0; i < batch.count; ++i) {
          if (biased)
            add_bias(batch[i], table, scratch.bias,
                     batch[i].column - (tile.axes[2].begin + batch.x), scores(i));
          gradient_by_lane(batch[i], scores(i), dweights(i), scratch.lse2, scratch.delta, pitch);
        }
        auto add = [&](const T* weights, const T* from, T* to, int width) {
          for (int i = 0; i < batch.count; ++i) {
            T* sums[M];
            for (int m = 0; m < M; ++m) sums[m] = to + (row(i) + m) * width;
            accumulate_met(batch[i], weights + batch[i].scores, from, pitch, width, sums);
          }
        };
        add(scratch.scores, scratch.dout_rows, scratch.dvalue, value_width);
        add(scratch.dweights, scratch.query_rows, scratch.dkey, key_width);
      });
    });
  }

  const Tensor to_key = key_tensor(p, args.dkey, p.head_dim, codec.bytes);
  const Tensor to_value = key_tensor(p, args.dvalue, p.value_dim, codec.bytes);
  // The queries were packed times scale * log2(e), so that their sums need only the ln(2).
  const T ln2 = static_cast<T>(kLn2), one = 1;
  store_own_rows(codec, tile, to_key, tile.kv_head, M, scratch.dkey, key_width, &ln2, 0);
  store_own_rows(codec, tile, to_value, tile.kv_head, M, scratch.dvalue, value_width, &one, 0);
}

}  // namespace jax_na::JAX_NA_ISA
