// The two inner products of attention, as register tiles.
//
// A group is M neighbouring rows of the stationary side (queries; keys in the key gradient). A
// strip is one SIMD vector of neighbouring tokens of the streaming side. Scores live as
// S[strip][M][lanes].
#pragma once

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

// sums[m][0..C*lanes) += sum over strips and their tokens of weights[strip][m][token] *
// rows[token][0..C*lanes). Tokens lie `pitch` to a line, `width` elements each.
template <typename T, int M, int C>
JAX_NA_INLINE void accumulate_columns(const T* __restrict weights, const Strip* strips, int count,
                                      const T* __restrict rows, int pitch, int width,
                                      T* const* sums, int column) {
  Vec<T> sum[M][C];
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < C; ++c) sum[m][c] = load(sums[m] + column + c * kLanes<T>);
  for (int n = 0; n < count; ++n) {
    const T* row =
        rows + (static_cast<int64_t>(strips[n].line) * pitch + strips[n].column) * width + column;
    const T* weight = weights + static_cast<int64_t>(n) * M * kLanes<T>;
    const T* stop = weight + strips[n].lanes;
    for (; weight < stop; ++weight, row += width) {
      Vec<T> value[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) value[c] = kept<T>(load(row + c * kLanes<T>));
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        Vec<T> factor = broadcast<T>(weight[m * kLanes<T>]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sum[m][c] += factor * value[c];
      }
    }
  }
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < C; ++c) store(sums[m] + column + c * kLanes<T>, sum[m][c]);
}

// The same over all `width` columns, a multiple of the lanes.
template <typename T, int M>
JAX_NA_INLINE void accumulate_rows(const T* weights, const Strip* strips, int count, const T* rows,
                                   int pitch, int width, T* const* sums) {
  constexpr int kMost = M <= 2 ? 5 : 12 / M;
  int left = width / kLanes<T>;
  int column = 0;
  while (left > 0) {
    int tiles = (left + kMost - 1) / kMost;
    int now = (left + tiles - 1) / tiles;
    switch (now) {
      case 1:
        accumulate_columns<T, M, 1>(weights, strips, count, rows, pitch, width, sums, column);
        break;
      case 2:
        accumulate_columns<T, M, 2>(weights, strips, count, rows, pitch, width, sums, column);
        break;
      case 3:
        accumulate_columns<T, M, 3>(weights, strips, count, rows, pitch, width, sums, column);
        break;
      case 4:
        if constexpr (kMost >= 4)
          accumulate_columns<T, M, 4>(weights, strips, count, rows, pitch, width, sums, column);
        break;
      default:
        if constexpr (kMost >= 5)
          accumulate_columns<T, M, 5>(weights, strips, count, rows, pitch, width, sums, column);
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
