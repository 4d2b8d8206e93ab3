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
  // The same for `rows` tokens at a time, as register groups: to[(i / rows * depth + d) * rows +
  // i % rows]. The tokens that the last group lacks become zero.
  void (*interleave)(const void* from, int64_t token_stride, int count, int rows, int depth,
                     T factor, T* to);
  // to[i * pitch + d] = factor * from[i * token_stride + d]; zero for depth <= d < pitch.
  void (*rows)(const void* from, int64_t token_stride, int count, int depth, T factor, T* to,
               int pitch);
  // to[i * token_stride + d] = factors[i * factor_step] * from[i * pitch + d] for i < count, d <
  // depth.
  void (*store_rows)(const T* from, int pitch, int count, int depth, const T* factors,
                     int factor_step, void* to, int64_t token_stride);
  // sums[i] = sum over d < depth of a[i * depth + d] * b[i * depth + d], for i < count.
  void (*dots)(const void* a, const void* b, int64_t count, int depth, T* sums);
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

// One vector of stored elements, from and to the compute type.
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
JAX_NA_INLINE void store_stored(Vec<Compute<Stored>> value, Stored* to) {
  using T = Compute<Stored>;
  if constexpr (sizeof(Stored) == sizeof(T)) {
    store(to, value);
  } else {
    for (int i = 0; i < kLanes<T>; ++i) from_compute(value[i], to[i]);
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
    const Stored* token[kBlock];
    for (int j = 0; j < kBlock; ++j) token[j] = from + min_of(i + j, count - 1) * token_stride;
    for (int d = 0; whole && d < whole_depth; d += kBlock) {
      Vec<T> block[kBlock];
      for (int j = 0; j < kBlock; ++j) block[j] = factor * load_stored(token[j] + d);
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

template <typename Stored, int M>
JAX_NA_INLINE void interleave_groups(const Stored* __restrict from, int64_t token_stride, int count,
                                     int depth, Compute<Stored> factor,
                                     Compute<Stored>* __restrict to) {
  int i = 0;
  for (; i + M <= count; i += M, from += M * token_stride, to += static_cast<int64_t>(M) * depth)
    interleave_rows<Stored, M>(from, token_stride, M, depth, factor, to);
  if (i < count) interleave_rows<Stored, M>(from, token_stride, count - i, depth, factor, to);
}

template <typename Stored>
void interleave(const void* from, int64_t token_stride, int count, int rows, int depth,
                Compute<Stored> factor, Compute<Stored>* to) {
  if (rows == 2)
    return interleave_groups<Stored, 2>(static_cast<const Stored*>(from), token_stride, count,
                                        depth, factor, to);
  return interleave_groups<Stored, 4>(static_cast<const Stored*>(from), token_stride, count, depth,
                                      factor, to);
}

template <typename Stored>
void rows(const void* from_bytes, int64_t token_stride, int count, int depth,
          Compute<Stored> factor, Compute<Stored>* __restrict to, int pitch) {
  using T = Compute<Stored>;
  const Stored* __restrict from = static_cast<const Stored*>(from_bytes);
  for (int i = 0; i < count; ++i, from += token_stride, to += pitch) {
    int d = 0;
    for (; d + kLanes<T> <= depth; d += kLanes<T>) store(to + d, factor * load_stored(from + d));
    for (; d < depth; ++d) to[d] = factor * to_compute(from[d]);
    for (; d < pitch; ++d) to[d] = 0;
  }
}

template <typename Stored>
void store_rows(const Compute<Stored>* __restrict from, int pitch, int count, int depth,
                const Compute<Stored>* factors, int factor_step, void* to_bytes,
                int64_t token_stride) {
  using T = Compute<Stored>;
  Stored* __restrict to = static_cast<Stored*>(to_bytes);
  for (int i = 0; i < count; ++i, from += pitch, to += token_stride, factors += factor_step) {
    const T factor = *factors;
    int d = 0;
    for (; d + kLanes<T> <= depth; d += kLanes<T>) store_stored(factor * load(from + d), to + d);
    for (; d < depth; ++d) from_compute(factor * from[d], to[d]);
  }
}

template <typename Stored>
void dots(const void* a_bytes, const void* b_bytes, int64_t count, int depth,
          Compute<Stored>* __restrict sums) {
  using T = Compute<Stored>;
  const Stored* __restrict a = static_cast<const Stored*>(a_bytes);
  const Stored* __restrict b = static_cast<const Stored*>(b_bytes);
  for (int64_t i = 0; i < count; ++i, a += depth, b += depth) {
    Vec<T> lanes{};
    int d = 0;
    for (; d + kLanes<T> <= depth; d += kLanes<T>) lanes += load_stored(a + d) * load_stored(b + d);
    T sum = horizontal_sum<T>(lanes);
    for (; d < depth; ++d) sum += to_compute(a[d]) * to_compute(b[d]);
    sums[i] = sum;
  }
}

template <typename Stored>
constexpr Codec<Compute<Stored>> codec_of() {
  return {transpose<Stored>,  interleave<Stored>, rows<Stored>,
          store_rows<Stored>, dots<Stored>,       sizeof(Stored)};
}

}  // namespace jax_na::JAX_NA_ISA
