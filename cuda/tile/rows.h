// Rows of one token's features in shared memory, swizzled so that eight rows that ldmatrix reads
// together lie in different banks.
#pragma once

#include <cstdint>

namespace jax_na::cuda {

// A row is kChunks chunks of 16 bytes; chunk c of row r is stored in place c ^ swizzle(r). The base
// of the rows is aligned to 128 bytes.
template <typename T, int kHeadDim>
struct Rows {
  static constexpr int kPerChunk = 16 / sizeof(T);
  static constexpr int kChunks = kHeadDim / kPerChunk;
  static constexpr int kBytes = 16 * kChunks;
  static constexpr int kSteps = kChunks / 2;  // matrix products of 32 bytes of features
  static_assert(kChunks % 4 == 0, "a row is a multiple of 64 bytes");
  static constexpr int kMask = kChunks % 8 == 0 ? 7 : 3;
  static constexpr int kShift = kChunks % 8 == 0 ? 0 : 1;

  __device__ __forceinline__ static uint32_t chunk_offset(int row, int chunk) {
    return row * kBytes + ((chunk ^ ((row >> kShift) & kMask)) << 4);
  }
  // The address of chunk 2 * step + half, from the address of chunk `half` of the same row.
  __device__ __forceinline__ static uint32_t at_step(uint32_t address, int step) {
    constexpr int kSwizzled = 16 * (kMask + 1) - 1;
    return (address ^ ((32 * step) & kSwizzled)) + ((32 * step) & ~kSwizzled);
  }
};

}  // namespace jax_na::cuda
