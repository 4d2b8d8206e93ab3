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
  Meeting<T, M> meeting;
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
    scores = arena.take<T>((tokens + kLanes<T>)*M);
    dweights = arena.take<T>((tokens + kLanes<T>)*M);
    bias = arena.take<T>(p.bias_batch > 0 ? BiasTable::of(p, M, kLanes<T>).elements() : 0);
    take_meeting(arena, plan, meeting);
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
      pack_transposed(codec, tile, chunk, query, head, scale2, scratch.queries, pitch);
      pack_transposed(codec, tile, chunk, dout, head, T(1), scratch.douts, pitch);
      const bool queries_finite =
          pack_rows(codec, tile, chunk, query, head, scale2, scratch.query_rows, pitch, key_width);
      const bool douts_finite =
          pack_rows(codec, tile, chunk, dout, head, T(1), scratch.dout_rows, pitch, value_width);
      pack_transposed(plain, tile, chunk, lse, head, static_cast<T>(kLog2E), scratch.lse2, pitch);
      pack_transposed(plain, tile, chunk, delta, head, T(1), scratch.delta, pitch);
      for (int z = 0, group = 0; z < tile.axes[0].count; ++z) {
        for (int y = 0; y < tile.axes[1].count; ++y) {
          for (int x = 0; x < across; ++x, ++group) {
            if (!meet(tile, chunk, z, y, x * M, scratch.meeting)) continue;
            const Meeting<T, M>& meeting = scratch.meeting;
            int64_t row = static_cast<int64_t>(group) * M;
            scores_of<T, M>(scratch.key + row * p.head_dim, scratch.queries, pitch, p.head_dim,
                            meeting.strips, meeting.count(), scratch.scores);
            scores_of<T, M>(scratch.value + row * p.value_dim, scratch.douts, pitch, p.value_dim,
                            meeting.strips, meeting.count(), scratch.dweights);
            if (biased)
              add_bias(meeting, table, scratch.bias, meeting.column - (tile.axes[2].begin + x * M),
                       scratch.scores);
            gradient_by_lane(meeting, scratch.scores, scratch.dweights, scratch.lse2, scratch.delta,
                             pitch);
            T* dkey[M];
            T* dvalue[M];
            for (int m = 0; m < M; ++m) {
              dkey[m] = scratch.dkey + (row + m) * key_width;
              dvalue[m] = scratch.dvalue + (row + m) * value_width;
            }
            accumulate_met(meeting, douts_finite, scratch.scores, scratch.dout_rows, pitch,
                           value_width, dvalue);
            accumulate_met(meeting, queries_finite, scratch.dweights, scratch.query_rows, pitch,
                           key_width, dkey);
          }
        }
      }
    });
  }

  const Tensor to_key = key_tensor(p, args.dkey, p.head_dim, codec.bytes);
  const Tensor to_value = key_tensor(p, args.dvalue, p.value_dim, codec.bytes);
  for (int z = 0; z < tile.axes[0].count; ++z) {
    for (int y = 0; y < tile.axes[1].count; ++y) {
      for (int x = 0; x < tile.axes[2].count; ++x) {
        int64_t row = (static_cast<int64_t>(z) * tile.axes[1].count + y) * across * M + x;
        int tz = tile.axes[0].stationary_token(z), ty = tile.axes[1].stationary_token(y);
        int tx = tile.axes[2].stationary_token(x);
        codec.store_row(scratch.dkey + row * key_width, p.head_dim, static_cast<T>(kLn2),
                        const_cast<std::byte*>(to_key.at(tile.batch, tz, ty, tx, tile.kv_head)));
        codec.store_row(scratch.dvalue + row * value_width, p.value_dim, T(1),
                        const_cast<std::byte*>(to_value.at(tile.batch, tz, ty, tx, tile.kv_head)));
      }
    }
  }
}

}  // namespace jax_na::JAX_NA_ISA
