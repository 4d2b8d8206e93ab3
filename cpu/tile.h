// A tile: stationary tokens of one (batch, kv head), the streamed intervals they meet, and the walk
// over both.
#pragma once

#include <limits>

#include "core/plan.h"
#include "cpu/arena.h"
#include "cpu/microkernel.h"
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
// guess which come next. Of a long stretch only the beginning, which the first-level cache can
// keep.
JAX_NA_INLINE void prefetch(const Stretch& tokens, const Tensor& tensor) {
  constexpr int64_t kLine = 64;
  constexpr int kMost = 32;
  const std::byte* from = tokens.from;
  for (int i = 0; i < min_of(tokens.count, kMost); ++i, from += tokens.stride * tensor.bytes)
    for (int64_t at = 0; at < tensor.depth * tensor.bytes; at += kLine)
      __builtin_prefetch(from + at);
}

// Calls place(from, stride, count, line, column) for every stretch of the chunk's tokens that lies
// evenly in `tensor`.
template <typename Place>
JAX_NA_INLINE void for_each_stretch(const Tile& tile, const Chunk& chunk, const Tensor& tensor,
                                    int head, Place place) {
  const TileAxis& x = tile.axes[2];
  if (chunk.additional) {
    place(tensor.at(tile.batch, 0, 0, chunk.columns.begin, head), tensor.token_stride(),
          chunk.columns.size(), 0, 0);
    return;
  }
  const int across = tile.axes[1].met.size();
  Stretch last = {nullptr, 0, 0};
  int last_line = 0, last_column = 0;
  auto place_last = [&] {
    if (last.count > 0) place(last.from, last.stride, last.count, last_line, last_column);
  };
  for (int line = 0; line < chunk.lines; ++line) {
    int z = tile.axes[0].streamed_token(tile.axes[0].met.begin + (chunk.line + line) / across);
    int y = tile.axes[1].streamed_token(tile.axes[1].met.begin + (chunk.line + line) % across);
    for (int position = chunk.columns.begin; position < chunk.columns.end;) {
      int end = chunk.columns.end;
      if (x.period > 0) end = min_of(end, (floor_div(position, x.period) + 1) * x.period);
      Stretch next = {tensor.at(tile.batch, z, y, x.streamed_token(position), head),
                      tensor.token_stride() * x.streamed.step, end - position};
      prefetch(next, tensor);
      place_last();
      last = next;
      last_line = line;
      last_column = position - chunk.columns.begin;
      position = end;
    }
  }
  place_last();
}

// to[line][feature][pitch], features of the chunk's tokens side by side.
template <typename T>
JAX_NA_INLINE void pack_transposed(const Codec<T>& codec, const Tile& tile, const Chunk& chunk,
                                   const Tensor& tensor, int head, T factor, T* to, int pitch) {
  for_each_stretch(tile, chunk, tensor, head,
                   [&](const std::byte* from, int64_t stride, int count, int line, int column) {
                     codec.transpose(
                         from, stride, count, pitch - column, tensor.depth, factor,
                         to + static_cast<int64_t>(line) * tensor.depth * pitch + column, pitch);
                   });
}

// Whether no element is infinite or NaN: their exponents alone have every bit set.
template <typename T>
JAX_NA_INLINE bool all_finite(const T* from, int64_t count) {
  using Int = typename Simd<T>::Int;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Int exponent;
  std::memcpy(&exponent, &kInfinity, sizeof exponent);
  Mask<T> found{};
  for (int64_t i = 0; i < count; i += kLanes<T>)  // rows are whole vectors
    found |= (Mask<T>(load(from + i)) & exponent) == exponent;
  Int any = 0;
  for (int i = 0; i < kLanes<T>; ++i) any |= found[i];
  return any == 0;
}

// to[line][pitch][width], the chunk's tokens one after the other, padded with zeros to `width`
// features, a multiple of the lanes. Returns whether all of them are finite.
template <typename T>
JAX_NA_INLINE bool pack_rows(const Codec<T>& codec, const Tile& tile, const Chunk& chunk,
                             const Tensor& tensor, int head, T factor, T* to, int pitch,
                             int width) {
  bool finite = true;
  for_each_stretch(tile, chunk, tensor, head,
                   [&](const std::byte* from, int64_t stride, int count, int line, int column) {
                     T* rows = to + (static_cast<int64_t>(line) * pitch + column) * width;
                     codec.rows(from, stride, count, tensor.depth, factor, rows, width);
                     finite = finite && all_finite(rows, static_cast<int64_t>(count) * width);
                   });
  return finite;
}

// Packs the tile's own tokens as register groups: to[group][feature][rows], zeros for the tokens
// past the end of a line.
template <typename T>
JAX_NA_INLINE void pack_groups(const Codec<T>& codec, const Tile& tile, const Tensor& tensor,
                               int head, T factor, int rows, T* to) {
  const TileAxis& x = tile.axes[2];
  auto from = [&](int line, int at) {
    return tensor.at(tile.batch, tile.axes[0].stationary_token(line / tile.axes[1].count),
                     tile.axes[1].stationary_token(line % tile.axes[1].count),
                     x.stationary_token(at), head);
  };
  const int64_t stride = tensor.token_stride() * x.stationary.step;
  const int lines = tile.axes[0].count * tile.axes[1].count;
  for (int line = 0; line < lines; ++line) {
    if (line + 1 < lines) prefetch({from(line + 1, 0), stride, x.count}, tensor);
    for (int i = 0; i < x.count; i += rows, to += static_cast<int64_t>(rows) * tensor.depth)
      codec.interleave(from(line, i), stride, min_of(rows, x.count - i), rows, tensor.depth, factor,
                       to);
  }
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

// What one group meets of one chunk.
template <typename T, int M>
struct Meeting {
  // A line of strips, with its distance to the group's line on the two outer axes.
  struct Line {
    int dz;  // streamed minus stationary position
    int dy;
  };
  Strip* strips;        // [lines][per_line]
  Line* lines;          // [lines]
  Mask<T> (*masks)[M];  // [per_line]: lanes that each row sees
  bool* free;           // [per_line]: every row sees every lane
  int line_count;
  int per_line;
  int column;  // position along x of the first strip's first lane

  JAX_NA_INLINE int count() const { return line_count * per_line; }
};

template <typename T, int M>
JAX_NA_INLINE void take_meeting(Arena& arena, const Plan& plan, Meeting<T, M>& meeting) {
  int per_line = (plan.chunk_columns + kLanes<T> - 1) / kLanes<T>;
  meeting.strips = arena.take<Strip>(static_cast<int64_t>(per_line) * plan.chunk_lines);
  meeting.lines = arena.take<typename Meeting<T, M>::Line>(plan.chunk_lines);
  meeting.masks = reinterpret_cast<Mask<T>(*)[M]>(
      arena.take<T>(static_cast<int64_t>(per_line) * M * kLanes<T>));
  meeting.free = arena.take<bool>(per_line);
}

// Lists what the group at (z, y, x..x+M) of the tile meets of the chunk; false if nothing.
template <typename T, int M>
JAX_NA_INLINE bool meet(const Tile& tile, const Chunk& chunk, int z, int y, int x,
                        Meeting<T, M>& meeting) {
  Interval rows[M];
  Interval all;
  meeting.line_count = 0;
  if (chunk.additional) {
    all = chunk.columns;
    for (int m = 0; m < M; ++m) rows[m] = all;
    meeting.lines[meeting.line_count++] = {0, 0};
  } else {
    const Interval* seen = tile.axes[2].seen + x;
    all = Interval{seen[0].begin, seen[M - 1].end}.clipped(chunk.columns);
    for (int m = 0; m < M; ++m) rows[m] = seen[m];
  }
  if (all.size() == 0) return false;
  int per_line = (all.size() + kLanes<T> - 1) / kLanes<T>;
  meeting.per_line = per_line;
  meeting.column = all.begin;
  for (int s = 0; s < per_line; ++s) {
    int first = all.begin + s * kLanes<T>;
    bool free = true;
    for (int m = 0; m < M; ++m) {
      Interval row = rows[m].clipped(all);
      meeting.masks[s][m] = lanes_between<T>(first, row.begin, row.end);
      free = free && row.begin <= first && row.end >= first + kLanes<T>;
    }
    meeting.free[s] = free;
  }
  Strip* strip = meeting.strips;
  auto add_line = [&](int line) {
    int left = all.size();
    int at = all.begin - chunk.columns.begin;
    for (int s = 0; s < per_line; ++s, at += kLanes<T>, left -= kLanes<T>)
      *strip++ = {line, at, min_of(left, kLanes<T>)};
  };
  if (chunk.additional) {
    add_line(0);
    return true;
  }
  const TileAxis& az = tile.axes[0];
  const TileAxis& ay = tile.axes[1];
  int across = ay.met.size();
  for (int sz = az.seen[z].begin; sz < az.seen[z].end; ++sz) {
    int base = (sz - az.met.begin) * across - ay.met.begin - chunk.line;
    int from = max_of(ay.seen[y].begin, -base);
    int to = min_of(ay.seen[y].end, chunk.lines - base);
    for (int sy = from; sy < to; ++sy) {
      meeting.lines[meeting.line_count++] = {sz - (az.begin + z), sy - (ay.begin + y)};
      add_line(base + sy);
    }
  }
  return meeting.line_count > 0;
}

// accumulate_rows for what a group meets. The tokens that only some rows of a group see have weight
// 0 for the others, which is not enough where a token is infinite or NaN: then pair by pair.
template <typename T, int M>
JAX_NA_INLINE void accumulate_met(const Meeting<T, M>& meeting, bool finite, const T* weights,
                                  const T* rows, int pitch, int width, T* const* sums) {
  if (finite)
    return accumulate_rows<T, M>(weights, meeting.strips, meeting.count(), rows, pitch, width,
                                 sums);
  for (int n = 0; n < meeting.count(); ++n, weights += M * kLanes<T>) {
    const Strip& strip = meeting.strips[n];
    for (int m = 0; m < M; ++m) {
      const Mask<T> seen = meeting.masks[n % meeting.per_line][m];
      for (int i = 0; i < strip.lanes; ++i) {
        if (seen[i] == 0) continue;
        const T* row = rows + (static_cast<int64_t>(strip.line) * pitch + strip.column + i) * width;
        for (int c = 0; c < width; c += kLanes<T>)
          store(sums[m] + c, load(sums[m] + c) + weights[m * kLanes<T> + i] * load(row + c));
      }
    }
  }
}

}  // namespace jax_na::JAX_NA_ISA
