// Copies between tensors and the packed tiles that the register tiles read, converting to the
// compute type.
#pragma once

#include "cpu/convert.h"
#include "cpu/vector.h"

namespace jax_na::JAX_NA_ISA {

// The packing routines of one stored type, so that the kernels are compiled once per compute type.
template <typename T>
struct Codec {
  // to[d * pitch + i] = factor * from[i * token_stride + d] for i < count, d < depth. Up to `room`
  // >= count tokens of each feature may be overwritten.
  void (*transpose)(const void* from, int64_t token_stride, int count, int room, int depth,
                    T factor, T* to, int pitch);
  // The same for the few tokens of a register group: pitch is `rows`, and tokens from `count` on
  // become zero.
  void (*interleave)(const void* from, int64_t token_stride, int count, int rows, int depth,
                     T factor, T* to);
  // to[i * pitch + d] = factor * from[i * token_stride + d]; zero for depth <= d < pitch.
  void (*rows)(const void* from, int64_t token_stride, int count, int depth, T factor, T* to,
               int pitch);
  // to[d] = factor * from[d] for d < depth.
  void (*store_row)(const T* from, int depth, T factor, void* to);
  int64_t bytes;  // of a stored element
};

// Transposes a square block of vectors in registers.
JAX_NA_INLINE void transpose_block(Vec<float> (&v)[8]) {
  Vec<float> a[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  Vec<float> b[8];
  for (int i = 0; i < 8; i += 4) {
    b[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    b[i + 2] = __builtin_shufflevector(a[i + 1], a[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    b[i + 3] = __builtin_shufflevector(a[i + 1], a[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
JAX_NA_INLINE void transpose_block(Vec<double> (&v)[4]) {
  Vec<double> a[4];
  for (int i = 0; i < 4; i += 2) {
    a[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 4, 2, 6);
    a[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 5, 3, 7);
  }
  for (int i = 0; i < 2; ++i) {
    v[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 1, 4, 5);
    v[i + 2] = __builtin_shufflevector(a[i], a[i + 2], 2, 3, 6, 7);
  }
}

// One vector of stored elements in the compute type.
template <typename Stored>
JAX_NA_INLINE Vec<Compute<Stored>> load_stored(const Stored* from) {
  using T = Compute<Stored>;
  if constexpr (sizeof(Stored) == sizeof(T)) {
    return load(from);
  } else {
    alignas(kVectorBytes) T lanes[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) lanes[i] = to_compute(from[i]);
    return load(lanes);
  }
}

template <typename Stored>
void transpose(const void* from_bytes, int64_t token_stride, int count, int room, int depth,
               Compute<Stored> factor, Compute<Stored>* __restrict to, int pitch) {
  using T = Compute<Stored>;
  constexpr int kBlock = kLanes<T>;
  const Stored* __restrict from = static_cast<const Stored*>(from_bytes);
  int whole_depth = depth / kBlock * kBlock;
  for (int i = 0; i < count; i += kBlock) {
    // A last, ragged block repeats its last token where there is room for it.
    bool whole = i + kBlock <= room;
    for (int d = 0; whole && d < whole_depth; d += kBlock) {
      Vec<T> block[kBlock];
      for (int j = 0; j < kBlock; ++j)
        block[j] = factor * load_stored(from + min_of(i + j, count - 1) * token_stride + d);
      transpose_block(block);
      for (int j = 0; j < kBlock; ++j)
        store(to + static_cast<int64_t>(d + j) * pitch + i, block[j]);
    }
    for (int j = i; j < min_of(i + kBlock, count); ++j)
      for (int d = whole ? whole_depth : 0; d < depth; ++d)
        to[static_cast<int64_t>(d) * pitch + j] = factor * to_compute(from[j * token_stride + d]);
  }
}

// Two vectors' lanes in turn: to[0] = a0 b0 a1 b1 .., to[1] the upper halves'.
JAX_NA_INLINE void zip(Vec<float> a, Vec<float> b, Vec<float> (&to)[2]) {
  to[0] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  to[1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
JAX_NA_INLINE void zip(Vec<double> a, Vec<double> b, Vec<double> (&to)[2]) {
  to[0] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  to[1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
}

template <typename Stored, int M>
JAX_NA_INLINE void interleave_rows(const Stored* __restrict from, int64_t token_stride, int count,
                                   int depth, Compute<Stored> factor,
                                   Compute<Stored>* __restrict to) {
  using T = Compute<Stored>;
  constexpr int kBlock = kLanes<T>;
  int d = 0;
  for (; d + kBlock <= depth; d += kBlock) {
    Vec<T> row[M];
    for (int m = 0; m < M; ++m)
      row[m] = m < count ? factor * load_stored(from + m * token_stride + d) : Vec<T>{};
    if constexpr (M == 2) {
      Vec<T> pair[2];
      zip(row[0], row[1], pair);
      for (int j = 0; j < 2; ++j) store(to + d * M + j * kBlock, pair[j]);
    } else {
      static_assert(M == 4);
      Vec<T> even[2], odd[2], quad[2];
      zip(row[0], row[2], even);
      zip(row[1], row[3], odd);
      for (int j = 0; j < 2; ++j) {
        zip(even[j], odd[j], quad);
        store(to + d * M + 2 * j * kBlock, quad[0]);
        store(to + d * M + (2 * j + 1) * kBlock, quad[1]);
      }
    }
  }
  for (; d < depth; ++d)
    for (int m = 0; m < M; ++m)
      to[d * M + m] = m < count ? factor * to_compute(from[m * token_stride + d]) : T(0);
}

template <typename Stored>
void interleave(const void* from, int64_t token_stride, int count, int rows, int depth,
                Compute<Stored> factor, Compute<Stored>* to) {
  if (rows == 2)
    return interleave_rows<Stored, 2>(static_cast<const Stored*>(from), token_stride, count, depth,
                                      factor, to);
  return interleave_rows<Stored, 4>(static_cast<const Stored*>(from), token_stride, count, depth,
                                    factor, to);
}

template <typename Stored>
void rows(const void* from_bytes, int64_t token_stride, int count, int depth,
          Compute<Stored> factor, Compute<Stored>* __restrict to, int pitch) {
  const Stored* __restrict from = static_cast<const Stored*>(from_bytes);
  for (int i = 0; i < count; ++i, from += token_stride, to += pitch) {
    for (int d = 0; d < depth; ++d) to[d] = factor * to_compute(from[d]);
    for (int d = depth; d < pitch; ++d) to[d] = 0;
  }
}

template <typename Stored>
void store_row(const Compute<Stored>* __restrict from, int depth, Compute<Stored> factor,
               void* to_bytes) {
  Stored* __restrict to = static_cast<Stored*>(to_bytes);
  for (int d = 0; d < depth; ++d) from_compute(factor * from[d], to[d]);
}

template <typename Stored>
constexpr Codec<Compute<Stored>> codec_of() {
  return {transpose<Stored>, interleave<Stored>, rows<Stored>, store_row<Stored>, sizeof(Stored)};
}

}  // namespace jax_na::JAX_NA_ISA
