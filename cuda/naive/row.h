// Rows of features, spread over the lanes of a group.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/naive/element.h"
#include "cuda/naive/group.h"

namespace jax_na::cuda::naive {

// How rows lie in memory and in lanes. Of 8 features a lane holds pieces of kVector neighbours, 16
// bytes; a group's pieces follow each other, so that it loads one run of memory.
template <typename Element, bool kAlignedRows>
struct Format {
  using T = Element;
  using R = RealOf<T>;
  static constexpr bool kAligned = kAlignedRows;  // rows begin at multiples of 16 bytes
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kPieces = kPerLane / kVector;
  // Rows met at a time: their loads are under way together.
  static constexpr int kBatch = sizeof(T) == 8 ? 2 : 4;

  struct alignas(16) Vector {
    T x[kVector];
  };

  // Where a lane's piece begins.
  __device__ __forceinline__ static int feature(const Groups& groups, int piece) {
    return ((piece << groups.lane_shift) + groups.lane()) * kVector;
  }
};

// One lane's features of a row.
template <typename F>
struct Row {
  using R = typename F::R;
  R x[kPerLane];

  __device__ __forceinline__ void add(R factor, const Row& other) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] += factor * other.x[i];
  }
  __device__ __forceinline__ void scale(R factor) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] *= factor;
  }
  // This lane's part of an inner product.
  __device__ __forceinline__ R dot(const Row& other) const {
    R sum = x[0] * other.x[0];
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) sum += x[i] * other.x[i];
    return sum;
  }
};

// Loads rows of `size` features; where not shown[i], nothing is read and the row is 0. Features
// from `size` on are 0.
template <typename F, int kCount>
__device__ __forceinline__ void load_rows(const Groups& groups,
                                          const typename F::T* const (&from)[kCount],
                                          const bool (&shown)[kCount], int size,
                                          Row<F> (&rows)[kCount]) {
  // The loads come before all else, so that they are under way together.
  typename F::Vector vectors[kCount][F::kPieces];
  memset(static_cast<void*>(vectors), 0, sizeof vectors);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int piece = 0; piece < F::kPieces; ++piece) {
      const int feature = F::feature(groups, piece);
      if constexpr (F::kAligned) {
        if (shown[i] && feature < size)
          vectors[i][piece] = *reinterpret_cast<const typename F::Vector*>(from[i] + feature);
      } else {
#pragma unroll
        for (int j = 0; j < F::kVector; ++j)
          if (shown[i] && feature + j < size) vectors[i][piece].x[j] = from[i][feature + j];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i)
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
      rows[i].x[j] = to_real(vectors[i][j / F::kVector].x[j % F::kVector]);
}

template <typename F>
__device__ __forceinline__ Row<F> load_row(const Groups& groups, const typename F::T* from,
                                           int size) {
  Row<F> row[1];
  load_rows<F, 1>(groups, {from}, {true}, size, row);
  return row[0];
}

template <typename F>
__device__ __forceinline__ void store_row(const Groups& groups, const Row<F>& row,
                                          typename F::T* to, int size) {
#pragma unroll
  for (int piece = 0; piece < F::kPieces; ++piece) {
    const int feature = F::feature(groups, piece);
    typename F::Vector vector;
#pragma unroll
    for (int j = 0; j < F::kVector; ++j)
      vector.x[j] = static_cast<typename F::T>(row.x[piece * F::kVector + j]);
    if constexpr (F::kAligned) {
      if (feature < size) *reinterpret_cast<typename F::Vector*>(to + feature) = vector;
    } else {
#pragma unroll
      for (int j = 0; j < F::kVector; ++j)
        if (feature + j < size) to[feature + j] = vector.x[j];
    }
  }
}
// The same without rounding, for sums that are to be added to others.
template <typename F>
__device__ __forceinline__ void store_sums(const Groups& groups, const Row<F>& row,
                                           typename F::R* to, int size) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int feature = F::feature(groups, i / F::kVector) + i % F::kVector;
    if (feature < size) to[feature] = row.x[i];
  }
}

}  // namespace jax_na::cuda::naive
