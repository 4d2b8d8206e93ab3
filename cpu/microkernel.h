// The two inner products of attention, as register tiles.
//
// A group is M neighbouring rows of the stationary side (queries; keys in the key gradient). A
// strip is one SIMD vector of neighbouring tokens of the streaming side. Scores live as
// S[strip][M][lanes].
#pragma once

#include <type_traits>

#include "cpu/vector.h"

namespace jax_na::JAX_NA_ISA {

// A strip of streaming tokens inside the packed tile.
struct Strip {
  int line;    // of the packed tile
  int column;  // of its first token in the line
  int lanes;   // tokens that some row of the group sees: 1..kLanes
};

// scores[n][m] = sum_d group[d][m] * transposed[line][d][column..]. `group` is [depth][M], a line
// [depth][pitch].
template <typename T, int M, int N>
JAX_NA_INLINE void score_strips(const T* __restrict group, const T* __restrict transposed,
                                int pitch, int depth, const Strip* strips, T* __restrict scores) {
  Vec<T> sum[N][M] = {};
  const T* from[N];
  for (int n = 0; n < N; ++n)
    from[n] = transposed + static_cast<int64_t>(strips[n].line) * depth * pitch + strips[n].column;
  for (int64_t d = 0, at = 0; d < depth; ++d, at += pitch, group += M) {
    if constexpr (M < N) {  // the shorter side stays in registers, the longer passes one by one
      Vec<T> row[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) row[m] = broadcast<T>(group[m]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        Vec<T> column = kept<T>(load(from[n] + at));
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sum[n][m] += row[m] * column;
      }
    } else {
      Vec<T> column[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) column[n] = kept<T>(load(from[n] + at));
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        Vec<T> row = kept<T>(broadcast<T>(group[m]));
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[n][m] += row * column[n];
      }
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(scores + (n * M + m) * kLanes<T>, sum[n][m]);
}

// Strips that one register tile holds: sums, one row vector per M and one column must fit in 16
// registers.
template <int M>
constexpr int kStripsAtOnce = M <= 2 ? 5 : 12 / M;

template <typename T, int M>
JAX_NA_INLINE void scores_of(const T* group, const T* transposed, int pitch, int depth,
                             const Strip* strips, int count, T* scores) {
  constexpr int kMost = kStripsAtOnce<M>;
  while (count > 0) {
    // The strips left are spread evenly: 7 as 4 + 3 rather than 5 + 2, which would leave the last
    // tile latency-bound.
    int tiles = (count + kMost - 1) / kMost;
    int now = (count + tiles - 1) / tiles;
    switch (now) {
      case 1:
        score_strips<T, M, 1>(group, transposed, pitch, depth, strips, scores);
        break;
      case 2:
        score_strips<T, M, 2>(group, transposed, pitch, depth, strips, scores);
        break;
      case 3:
        score_strips<T, M, 3>(group, transposed, pitch, depth, strips, scores);
        break;
      case 4:
        if constexpr (kMost >= 4)
          score_strips<T, M, 4>(group, transposed, pitch, depth, strips, scores);
        break;
      default:
        if constexpr (kMost >= 5)
          score_strips<T, M, 5>(group, transposed, pitch, depth, strips, scores);
        break;
    }
    strips += now;
    scores += static_cast<int64_t>(now) * M * kLanes<T>;
    count -= now;
  }
}

// Neighbouring tokens of a line, of one strip, that the rows [first, last] of a group see and no
// other.
struct Run {
  int first;
  int last;
  int token;  // of the line's first strip onward
  int count;
  int weight;  // where the first token's weights lie among those of the line
};

// What a group of M rows sees of every line that it meets: `strips` strips from `column` on. As
// runs, unless it `slides`: each row's window begins and ends one token behind the last one's. Then
// the runs are of the tokens that all rows see, the M - 1 tokens before them are seen by the rows
// 0..i, and the M - 1 behind them, whose weights lie at `behind`, by the rows i+1..M-1.
template <int M>
struct Runs {
  const Run* runs;
  int count;
  int strips;
  int column;
  bool slides;
  int behind[M - 1];
};

// Calls call(first, last) with both as constants.
template <int M, typename Call>
JAX_NA_INLINE void with_rows_seen(int first, int last, Call call) {
  static_assert(M == 2 || M == 4);
  using std::integral_constant;
  constexpr integral_constant<int, 0> k0;
  constexpr integral_constant<int, 1> k1;
  if constexpr (M == 2) {
    if (first < last) return call(k0, k1);
    return first == 0 ? call(k0, k0) : call(k1, k1);
  } else {
    constexpr integral_constant<int, 2> k2;
    constexpr integral_constant<int, 3> k3;
    switch (first * M + last) {
      case 0:
        return call(k0, k0);
      case 1:
        return call(k0, k1);
      case 2:
        return call(k0, k2);
      case 3:
        return call(k0, k3);
      case 5:
        return call(k1, k1);
      case 6:
        return call(k1, k2);
      case 7:
        return call(k1, k3);
      case 10:
        return call(k2, k2);
      case 11:
        return call(k2, k3);
      default:
        return call(k3, k3);
    }
  }
}

template <typename T, int M, int C, int kFirst, int kLast>
JAX_NA_INLINE void accumulate_token(const T* __restrict weight, const T* __restrict row,
                                    Vec<T> (&sum)[M][C]) {
  Vec<T> value[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) value[c] = kept<T>(load(row + c * kLanes<T>));
#pragma GCC unroll 8
  for (int m = kFirst; m <= kLast; ++m) {
    Vec<T> factor = broadcast<T>(weight[m * kLanes<T>]);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[m][c] += factor * value[c];
  }
}

// sums[m][0..C*lanes) += sum over lines, and their tokens that row m sees, of
// weights[line][strip][m][token] * rows[token][0..C*lanes). Lines hold `pitch` tokens of `width`
// elements each.
template <typename T, int M, int C>
JAX_NA_INLINE void accumulate_columns(const T* __restrict weights, const int* lines, int line_count,
                                      const Runs<M>& seen, const T* __restrict rows, int pitch,
                                      int width, T* const* sums, int column) {
  Vec<T> sum[M][C];
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < C; ++c) sum[m][c] = load(sums[m] + column + c * kLanes<T>);
  const Run* const stop = seen.runs + seen.count;
  for (int n = 0; n < line_count; ++n, weights += seen.strips * M * kLanes<T>) {
    const T* line = rows + (static_cast<int64_t>(lines[n]) * pitch + seen.column) * width + column;
    // The rows of a token are constants, so that the sums stay in registers.
    auto add_run = [&](const Run& run, auto first, auto last) __attribute__((always_inline)) {
      const T* weight = weights + run.weight;
      const T* row = line + static_cast<int64_t>(run.token) * width;
      for (const T* end = weight + run.count; weight < end; ++weight, row += width)
        accumulate_token<T, M, C, first, last>(weight, row, sum);
    };
    using Zero = std::integral_constant<int, 0>;
    using Last = std::integral_constant<int, M - 1>;
    if (!seen.slides) {
      for (const Run* run = seen.runs; run != stop; ++run)
        with_rows_seen<M>(run->first, run->last,
                          [&](auto first, auto last)
                              __attribute__((always_inline)) { add_run(*run, first, last); });
      continue;
    }
    accumulate_token<T, M, C, 0, 0>(weights, line, sum);
    if constexpr (M == 4) {
      accumulate_token<T, M, C, 0, 1>(weights + 1, line + width, sum);
      accumulate_token<T, M, C, 0, 2>(weights + 2, line + 2 * width, sum);
    }
    for (const Run* run = seen.runs; run != stop; ++run) add_run(*run, Zero(), Last());
    const T* behind = line + static_cast<int64_t>(stop[-1].token + stop[-1].count) * width;
    accumulate_token<T, M, C, 1, M - 1>(weights + seen.behind[0], behind, sum);
    if constexpr (M == 4) {
      accumulate_token<T, M, C, 2, 3>(weights + seen.behind[1], behind + width, sum);
      accumulate_token<T, M, C, 3, 3>(weights + seen.behind[2], behind + 2 * width, sum);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < C; ++c) store(sums[m] + column + c * kLanes<T>, sum[m][c]);
}

// The same over all `width` columns, a multiple of the lanes.
template <typename T, int M>
JAX_NA_INLINE void accumulate_rows(const T* weights, const int* lines, int line_count,
                                   const Runs<M>& seen, const T* rows, int pitch, int width,
                                   T* const* sums) {
  constexpr int kMost = M <= 2 ? 5 : 12 / M;
  int left = width / kLanes<T>;
  int column = 0;
  while (left > 0) {
    int tiles = (left + kMost - 1) / kMost;
    int now = (left + tiles - 1) / tiles;
    switch (now) {
      case 1:
        accumulate_columns<T, M, 1>(weights, lines, line_count, seen, rows, pitch, width, sums,
                                    column);
        break;
      case 2:
        accumulate_columns<T, M, 2>(weights, lines, line_count, seen, rows, pitch, width, sums,
                                    column);
        break;
      case 3:
        accumulate_columns<T, M, 3>(weights, lines, line_count, seen, rows, pitch, width, sums,
                                    column);
        break;
      case 4:
        if constexpr (kMost >= 4)
          accumulate_columns<T, M, 4>(weights, lines, line_count, seen, rows, pitch, width, sums,
                                      column);
        break;
      default:
        if constexpr (kMost >= 5)
          accumulate_columns<T, M, 5>(weights, lines, line_count, seen, rows, pitch, width, sums,
                                      column);
        break;
    }
    column += now * kLanes<T>;
    left -= now;
  }
}

// The transpose of accumulate_rows: rows[token][0..width) += sum_m weights[strip][m][token] *
// group[m][0..width).
template <typename T, int M>
JAX_NA_INLINE void scatter_rows(const T* __restrict weights, const Strip* strips, int count,
                                T* __restrict rows, int pitch, int width, const T* const* group) {
  for (int n = 0; n < count; ++n) {
    T* row = rows + (static_cast<int64_t>(strips[n].line) * pitch + strips[n].column) * width;
    const T* weight = weights + static_cast<int64_t>(n) * M * kLanes<T>;
    for (int i = 0; i < strips[n].lanes; ++i, row += width) {
      for (int c = 0; c < width; c += kLanes<T>) {
        Vec<T> sum = load(row + c);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sum += weight[m * kLanes<T> + i] * load(group[m] + c);
        store(row + c, sum);
      }
    }
  }
}

}  // namespace jax_na::JAX_NA_ISA
