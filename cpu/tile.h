// A tile: stationary tokens of one (batch, kv head), the streamed intervals they meet, and the
// packing of both.
#pragma once

#include "core/plan.h"
#include "cpu/arena.h"
#include "cpu/pack.h"

namespace jax_na::JAX_NA_ISA {

// A part of the streamed side: lines [line, line + lines) of the tile's (z, y) lines, columns
// [column, column + columns) of each, as positions along x. Additional tokens are one line of their
// own, at column 0 upward.
struct Chunk {
  int line;
  int lines;
  Interval columns;
  bool additional;
};

// One axis of a tile.
struct TileAxis {
  Held stationary;
  Held streamed;
  int period;  // positions are taken modulo it; 0: not a whole periodic axis
  int begin;
  int count;
  Interval met;
  Interval* seen;  // per stationary position; x is padded to whole groups by repeating the last one

  JAX_NA_INLINE int streamed_token(int position) const {
    return streamed.token(period > 0 ? floor_mod(position, period) : position);
  }
  JAX_NA_INLINE int stationary_token(int at) const { return stationary.token(begin + at); }
};

struct Tile {
  int64_t batch;
  int kv_head;
  TileAxis axes[kMaxRank];

  JAX_NA_INLINE int lines() const { return axes[0].met.size() * axes[1].met.size(); }
  // Its own tokens along x, in whole register groups.
  JAX_NA_INLINE int padded_line(int rows) const { return (axes[2].count + rows - 1) / rows * rows; }
};

JAX_NA_INLINE void take_tile(Arena& arena, const Plan& plan, Tile& tile) {
  for (int a = 0; a < kMaxRank; ++a)
    tile.axes[a].seen = arena.take<Interval>(a == 2 ? plan.padded_box_x() : plan.box[a]);
}

// Fills `tile` with number `index` of the plan's tiles; x runs fastest.
inline void set_tile(const Problem& problem, const Plan& plan, int64_t index, Tile& tile) {
  for (int a = kMaxRank - 1; a >= 0; --a) {
    const Span& span =
        plan.spans[a][static_cast<size_t>(index % static_cast<int64_t>(plan.spans[a].size()))];
    index /= static_cast<int64_t>(plan.spans[a].size());
    const Axis& axis = problem.axes[a];
    TileAxis& part = tile.axes[a];
    bool keys_stationary = plan.pass == Pass::kKeyGradient;
    Held queries = axis.queries(span.group);
    Held keys = axis.keys(span.group);
    Rule rule = axis.rule(span.group);
    part.stationary = keys_stationary ? keys : queries;
    part.streamed = keys_stationary ? queries : keys;
    part.period = axis.modular() ? rule.length : 0;
    part.begin = span.begin;
    part.count = span.count;
    part.met = span.met;
    Interval held = part.streamed.positions();
    for (int i = 0; i < span.count; ++i) {
      Interval seen =
          keys_stationary ? rule.queries_of(span.begin + i) : rule.window_of(span.begin + i);
      part.seen[i] = part.period > 0 ? seen : seen.clipped(held);
    }
  }
  TileAxis& x = tile.axes[2];
  for (int i = x.count; i < (x.count + plan.rows - 1) / plan.rows * plan.rows; ++i)
    x.seen[i] = x.seen[x.count - 1];
}

// The tensor a side is read from: element (token, head) begins at base + (token * heads + head) *
// depth.
struct Tensor {
  const std::byte* base;
  int tokens[kMaxRank];
  int heads;
  int depth;
  int64_t bytes;

  JAX_NA_INLINE const std::byte* at(int64_t batch, int z, int y, int x, int head) const {
    int64_t token = ((batch * tokens[0] + z) * tokens[1] + y) * tokens[2] + x;
    return base + (token * heads + head) * depth * bytes;
  }
  JAX_NA_INLINE int64_t token_stride() const { return static_cast<int64_t>(heads) * depth; }
};

// Tokens that lie `stride` elements apart.
struct Stretch {
  const std::byte* from;
  int64_t stride;
  int count;
};

// Asks for tokens ahead of their use: those of one head lie too far apart for the processor to
// guess which come next.
JAX_NA_INLINE void prefetch(const Stretch& tokens, const Tensor& tensor) {
  constexpr int64_t kLine = 64;
  const std::byte* from = tokens.from;
  for (int i = 0; i < tokens.count; ++i, from += tokens.stride * tensor.bytes)
    for (int64_t at = 0; at < tensor.depth * tensor.bytes; at += kLine)
      __builtin_prefetch(from + at);
}

// Goes through a chunk's tokens in pieces of a line, each of which lies evenly in a tensor.
class Pieces {
 public:
  int line = 0;  // of the chunk, and so is the column
  int column = 0;
  Stretch piece;

  JAX_NA_INLINE Pieces(const Tile& tile, const Chunk& chunk, const Tensor& tensor, int head)
      : tile_(tile), chunk_(chunk), tensor_(tensor), head_(head) {
    piece.stride = tensor.token_stride() * (chunk.additional ? 1 : tile.axes[2].streamed.step);
    if (!chunk.additional) {
      z_ = chunk.line / tile.axes[1].met.size();
      y_ = chunk.line % tile.axes[1].met.size();
    }
    set_line();
    set_piece();
  }
  JAX_NA_INLINE bool at_end() const { return line >= chunk_.lines; }
  JAX_NA_INLINE void advance() {
    column += piece.count;
    if (column >= chunk_.columns.size()) {
      column = 0;
      if (++line >= chunk_.lines) return;
      if (++y_ == tile_.axes[1].met.size()) {
        y_ = 0;
        ++z_;
      }
      set_line();
    }
    set_piece();
  }

 private:
  // Few enough tokens for the first-level cache to hold some pieces, in whole vectors.
  static constexpr int kMost = 16;

  JAX_NA_INLINE void set_line() {
    const TileAxis& z = tile_.axes[0];
    const TileAxis& y = tile_.axes[1];
    from_ = chunk_.additional ? tensor_.at(tile_.batch, 0, 0, 0, head_)
                              : tensor_.at(tile_.batch, z.streamed_token(z.met.begin + z_),
                                           y.streamed_token(y.met.begin + y_), 0, head_);
  }
  JAX_NA_INLINE void set_piece() {
    const TileAxis& x = tile_.axes[2];
    const int position = chunk_.columns.begin + column;
    int end = min_of(position + kMost, chunk_.columns.end);
    if (x.period > 0 && !chunk_.additional)
      end = min_of(end, (floor_div(position, x.period) + 1) * x.period);
    const int64_t token = chunk_.additional ? position : x.streamed_token(position);
    piece.from = from_ + token * tensor_.token_stride() * tensor_.bytes;
    piece.count = end - position;
  }
  const Tile& tile_;
  const Chunk& chunk_;
  const Tensor& tensor_;
  int head_;
  int z_ = 0;  // of the tile's streamed side
  int y_ = 0;
  const std::byte* from_;  // token 0 of the line
};

// Calls place(stretch, line, column) for every piece of the chunk's tokens in `tensor`. While one
// is copied the next is on its way.
template <typename Place>
JAX_NA_INLINE void for_each_piece(const Tile& tile, const Chunk& chunk, const Tensor& tensor,
                                  int head, Place place) {
  Pieces pieces(tile, chunk, tensor, head);
  prefetch(pieces.piece, tensor);
  while (!pieces.at_end()) {
    const Stretch now = pieces.piece;
    const int line = pieces.line, column = pieces.column;
    pieces.advance();
    if (!pieces.at_end()) prefetch(pieces.piece, tensor);
    place(now, line, column);
  }
}

// to[line][feature][pitch], features of the chunk's tokens side by side.
template <typename T>
JAX_NA_INLINE void pack_transposed(const Codec<T>& codec, const Tile& tile, const Chunk& chunk,
                                   const Tensor& tensor, int head, T factor, T* to, int pitch) {
  for_each_piece(tile, chunk, tensor, head, [&](const Stretch& from, int line, int column) {
    codec.transpose(from.from, from.stride, from.count, pitch - column, tensor.depth, factor,
                    to + static_cast<int64_t>(line) * tensor.depth * pitch + column, pitch);
  });
}

// to[line][pitch][width], the chunk's tokens one after the other, padded with zeros to `width`
// features, a multiple of the lanes.
template <typename T>
JAX_NA_INLINE void pack_rows(const Codec<T>& codec, const Tile& tile, const Chunk& chunk,
                             const Tensor& tensor, int head, T factor, T* to, int pitch,
                             int width) {
  for_each_piece(tile, chunk, tensor, head, [&](const Stretch& from, int line, int column) {
    codec.rows(from.from, from.stride, from.count, tensor.depth, factor,
               to + (static_cast<int64_t>(line) * pitch + column) * width, width);
  });
}

// pack_rows to `rows` and pack_transposed to `transposed` of the same tokens: the tensor is read
// once, and the rows are transposed while they are in the first-level cache.
template <typename T>
JAX_NA_INLINE void pack_both(const Codec<T>& codec, const Tile& tile, const Chunk& chunk,
                             const Tensor& tensor, int head, T factor, T* transposed, T* rows,
                             int pitch, int width) {
  const Codec<T> plain = codec_of<T>();
  for_each_piece(tile, chunk, tensor, head, [&](const Stretch& from, int line, int column) {
    T* packed = rows + (static_cast<int64_t>(line) * pitch + column) * width;
    codec.rows(from.from, from.stride, from.count, tensor.depth, factor, packed, width);
    plain.transpose(packed, width, from.count, pitch - column, tensor.depth, T(1),
                    transposed + static_cast<int64_t>(line) * tensor.depth * pitch + column, pitch);
  });
}

// Calls visit(stretch, line) for every line of the tile's own tokens.
template <typename Visit>
JAX_NA_INLINE void for_each_own_line(const Tile& tile, const Tensor& tensor, int head,
                                     Visit visit) {
  const TileAxis& x = tile.axes[2];
  auto stretch = [&](int line) {
    return Stretch{tensor.at(tile.batch, tile.axes[0].stationary_token(line / tile.axes[1].count),
                             tile.axes[1].stationary_token(line % tile.axes[1].count),
                             x.stationary_token(0), head),
                   tensor.token_stride() * x.stationary.step, x.count};
  };
  const int lines = tile.axes[0].count * tile.axes[1].count;
  Stretch next = stretch(0);
  for (int line = 0; line < lines; ++line) {
    const Stretch now = next;
    if (line + 1 < lines) next = stretch(line + 1);
    visit(now, next, line);
  }
}

// Packs the tile's own tokens as register groups: to[group][feature][rows], zeros for the tokens
// past the end of a line.
template <typename T>
JAX_NA_INLINE void pack_groups(const Codec<T>& codec, const Tile& tile, const Tensor& tensor,
                               int head, T factor, int rows, T* to) {
  const int64_t padded_line = static_cast<int64_t>(tile.padded_line(rows)) * tensor.depth;
  for_each_own_line(tile, tensor, head, [&](const Stretch& now, const Stretch& next, int line) {
    prefetch(next, tensor);
    codec.interleave(now.from, now.stride, now.count, rows, tensor.depth, factor,
                     to + line * padded_line);
  });
}

// Writes the tile's results, rows of [line][padded line][pitch], each times its factor:
// factors[row * factor_step].
template <typename T>
JAX_NA_INLINE void store_own_rows(const Codec<T>& codec, const Tile& tile, const Tensor& tensor,
                                  int head, int rows, const T* from, int pitch, const T* factors,
                                  int factor_step) {
  const int64_t padded_line = tile.padded_line(rows);
  for_each_own_line(tile, tensor, head, [&](const Stretch& to, const Stretch&, int line) {
    codec.store_rows(from + line * padded_line * pitch, pitch, to.count, tensor.depth,
                     factors + line * padded_line * factor_step, factor_step,
                     const_cast<std::byte*>(to.from), to.stride);
  });
}

// Calls visit(chunk) for every chunk of the tokens that the tile meets on the grid.
template <typename Visit>
JAX_NA_INLINE void for_each_grid_chunk(const Plan& plan, const Tile& tile, Visit visit) {
  Interval across = tile.axes[2].met;
  for (int line = 0; line < tile.lines(); line += plan.chunk_lines)
    for (int column = across.begin; column < across.end; column += plan.chunk_columns)
      visit(Chunk{line,
                  min_of(plan.chunk_lines, tile.lines() - line),
                  {column, min_of(column + plan.chunk_columns, across.end)},
                  false});
}

// Calls visit(chunk) for every chunk of the additional tokens.
template <typename Visit>
JAX_NA_INLINE void for_each_additional_chunk(const Plan& plan, int additional, Visit visit) {
  for (int column = 0; column < additional; column += plan.chunk_columns)
    visit(Chunk{0, 1, {column, min_of(column + plan.chunk_columns, additional)}, true});
}

}  // namespace jax_na::JAX_NA_ISA
