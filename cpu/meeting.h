// What the groups of a tile meet of a chunk, and the walk over them.
#pragma once

#include "cpu/microkernel.h"
#include "cpu/tile.h"

namespace jax_na::JAX_NA_ISA {

// What one group meets of one chunk: on every line that it meets the same strips, since a group is
// one token wide on the two outer axes.
template <typename T, int M>
struct Meeting {
  // The distance of a line to the group's own on the two outer axes: streamed minus stationary
  // position.
  struct Distance {
    int dz;
    int dy;
  };
  Mask<T> (*masks)[M];  // [per_line]: lanes that each row sees
  bool* free;           // [per_line]: every row sees every lane
  Runs<M> seen;
  Run* runs;         // of `seen`
  int per_line;      // strips
  int column;        // position along x of the first strip's first lane
  int first_column;  // the same, counted from the chunk's first column
  int width;         // tokens along x that some row sees
  int* lines;        // [line_count]: of the packed chunk
  Distance* distances;
  int line_count;
  Strip* strips;  // [line_count][per_line]
  int group;      // of the tile
  int scores;     // where its scores, [line_count][per_line][M][lanes], begin in those of the batch

  JAX_NA_INLINE int count() const { return line_count * per_line; }
  // Takes over what belongs to x alone.
  JAX_NA_INLINE void share_columns(const Meeting& other) {
    masks = other.masks;
    free = other.free;
    seen = other.seen;
    per_line = other.per_line;
    column = other.column;
    first_column = other.first_column;
    width = other.width;
  }
};

// Groups that lie one behind the other on the outer axes and go through each step of a pass
// together, so that the first-level cache holds the lines which they share.
template <typename T, int M>
struct Batch {
  static constexpr int kMost = 12;
  static constexpr int kScores = 5120 / sizeof(T);  // of a batch: a share of that cache
  Meeting<T, M> meetings[kMost];
  int count;
  int x;  // of the groups' first rows, in the tile

  JAX_NA_INLINE const Meeting<T, M>& operator[](int i) const { return meetings[i]; }

  // The scores of a batch whose last group meets a whole chunk.
  static int64_t most_scores(const Plan& plan) {
    return kScores + (static_cast<int64_t>(plan.chunk_lines) * plan.pitch() + kLanes<T>)*M;
  }
};

template <typename T, int M>
JAX_NA_INLINE void take_batch(Arena& arena, const Plan& plan, Batch<T, M>& batch) {
  const int per_line = (plan.chunk_columns + kLanes<T> - 1) / kLanes<T>;
  Meeting<T, M>& first = batch.meetings[0];  // the others share its columns
  first.masks = reinterpret_cast<Mask<T>(*)[M]>(
      arena.take<T>(static_cast<int64_t>(per_line) * M * kLanes<T>));
  first.free = arena.take<bool>(per_line);
  first.runs = arena.take<Run>(per_line + 2 * M);
  for (Meeting<T, M>& meeting : batch.meetings) {
    meeting.lines = arena.take<int>(plan.chunk_lines);
    meeting.distances = arena.take<typename Meeting<T, M>::Distance>(plan.chunk_lines);
    meeting.strips = arena.take<Strip>(static_cast<int64_t>(per_line) * plan.chunk_lines);
  }
}

// Fills meeting.seen with what rows of these intervals see along x.
template <typename T, int M>
JAX_NA_INLINE void list_runs(const Interval (&rows)[M], Meeting<T, M>& meeting) {
  Runs<M>& seen = meeting.seen;
  const Interval all = {rows[0].begin, rows[M - 1].end};
  const Interval common = {rows[M - 1].begin, rows[0].end};
  seen.runs = meeting.runs;
  seen.count = 0;
  seen.strips = meeting.per_line;
  seen.column = meeting.first_column;
  auto weight = [&](int position) {
    const int token = position - all.begin;
    return token / kLanes<T> * M * kLanes<T> + token % kLanes<T>;
  };
  auto strip_end = [&](int position) {
    return all.begin + ((position - all.begin) / kLanes<T> + 1) * kLanes<T>;
  };
  seen.slides = rows[0].size() >= M;
  for (int m = 1; m < M; ++m)
    seen.slides =
        seen.slides && rows[m].begin == rows[0].begin + m && rows[m].end == rows[0].end + m;
  Interval listed = all;
  if (seen.slides) {
    listed = common;
    for (int m = 1; m < M; ++m) seen.behind[m - 1] = weight(listed.end + m - 1);
  }
  for (int at = listed.begin; at < listed.end;) {
    int first = 0, past = M, next = min_of(strip_end(at), listed.end);
    if (common.begin <= at && at < common.end) {
      next = min_of(next, common.end);
    } else {
      // The rows that see `at` are neighbours; the same ones see what follows, up to the next end
      // of an interval.
      for (int m = 0; m < M; ++m) {
        if (rows[m].end <= at) first = m + 1;
        if (rows[m].begin > at) past = min_of(past, m);
        for (int end : {rows[m].begin, rows[m].end})
          if (end > at) next = min_of(next, end);
      }
    }
    if (first < past)
      meeting.runs[seen.count++] = {first, past - 1, at - all.begin, next - at, weight(at)};
    at = next;
  }
}

// What the group at x..x+M of the tile sees along x of the chunk; false if nothing.
template <typename T, int M>
JAX_NA_INLINE bool meet_columns(const Tile& tile, const Chunk& chunk, int x,
                                Meeting<T, M>& meeting) {
  Interval rows[M];
  for (int m = 0; m < M; ++m)
    rows[m] = chunk.additional ? chunk.columns : tile.axes[2].seen[x + m].clipped(chunk.columns);
  // Both ends of what a row sees never decrease.
  const Interval all = {rows[0].begin, rows[M - 1].end};
  if (all.size() == 0) return false;
  meeting.width = all.size();
  meeting.per_line = (all.size() + kLanes<T> - 1) / kLanes<T>;
  meeting.column = all.begin;
  meeting.first_column = all.begin - chunk.columns.begin;
  for (int s = 0; s < meeting.per_line; ++s) {
    const int first = all.begin + s * kLanes<T>;
    bool free = true;
    for (int m = 0; m < M; ++m) {
      meeting.masks[s][m] = lanes_between<T>(first, rows[m].begin, rows[m].end);
      free = free && rows[m].begin <= first && rows[m].end >= first + kLanes<T>;
    }
    meeting.free[s] = free;
  }
  list_runs(rows, meeting);
  return true;
}

// Lists the lines of the chunk that the group's line (z, y) of the tile meets; false if none.
template <typename T, int M>
JAX_NA_INLINE bool meet_lines(const Tile& tile, const Chunk& chunk, int z, int y,
                              Meeting<T, M>& meeting) {
  meeting.line_count = 0;
  if (chunk.additional) {
    meeting.lines[meeting.line_count] = 0;
    meeting.distances[meeting.line_count++] = {0, 0};
  } else {
    const TileAxis& az = tile.axes[0];
    const TileAxis& ay = tile.axes[1];
    const int across = ay.met.size();
    for (int sz = az.seen[z].begin; sz < az.seen[z].end; ++sz) {
      const int base = (sz - az.met.begin) * across - ay.met.begin - chunk.line;
      const int from = max_of(ay.seen[y].begin, -base);
      const int to = min_of(ay.seen[y].end, chunk.lines - base);
      for (int sy = from; sy < to; ++sy) {
        meeting.lines[meeting.line_count] = base + sy;
        meeting.distances[meeting.line_count++] = {sz - (az.begin + z), sy - (ay.begin + y)};
      }
    }
  }
  Strip* strip = meeting.strips;
  for (int n = 0; n < meeting.line_count; ++n)
    for (int at = 0; at < meeting.width; at += kLanes<T>)
      *strip++ = {meeting.lines[n], meeting.first_column + at,
                  min_of(meeting.width - at, kLanes<T>)};
  return meeting.line_count > 0;
}

// Calls visit() for every batch of groups of the tile that meet something of the chunk. What is
// seen along x is found out once for all lines.
template <typename T, int M, typename Visit>
JAX_NA_INLINE void for_each_batch(const Tile& tile, const Chunk& chunk, Batch<T, M>& batch,
                                  Visit visit) {
  const int across = (tile.axes[2].count + M - 1) / M;
  for (int x = 0; x < across; ++x) {
    if (!meet_columns(tile, chunk, x * M, batch.meetings[0])) continue;
    for (int i = 1; i < batch.kMost; ++i) batch.meetings[i].share_columns(batch.meetings[0]);
    batch.x = x * M;
    batch.count = 0;
    int scores = 0;
    for (int z = 0; z < tile.axes[0].count; ++z) {
      for (int y = 0; y < tile.axes[1].count; ++y) {
        Meeting<T, M>& meeting = batch.meetings[batch.count];
        if (!meet_lines(tile, chunk, z, y, meeting)) continue;
        meeting.group = (z * tile.axes[1].count + y) * across + x;
        meeting.scores = scores;
        scores += meeting.count() * M * kLanes<T>;
        if (++batch.count == batch.kMost || scores >= batch.kScores) {
          visit();
          batch.count = scores = 0;
        }
      }
    }
    if (batch.count > 0) visit();
  }
}

// sums[m] += sum of weights * rows over what row m sees. No token enters the sum of a row that does
// not see it, so infinity and NaN stay where they are seen.
template <typename T, int M>
JAX_NA_INLINE void accumulate_met(const Meeting<T, M>& meeting, const T* weights, const T* rows,
                                  int pitch, int width, T* const* sums) {
  accumulate_rows<T, M>(weights, meeting.lines, meeting.line_count, meeting.seen, rows, pitch,
                        width, sums);
}

}  // namespace jax_na::JAX_NA_ISA
