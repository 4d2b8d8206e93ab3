// What the tests of the emulated Hopper instructions share.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/ptx/ldmatrix.h"

namespace jax_na::cuda {

using Element = __nv_bfloat16;
constexpr int kAxes = 5;
constexpr int kAlignment = 1024;

// The first 1024-byte boundary of shared memory.
inline uint32_t aligned_base(unsigned char* shared) {
  return (ptx::shared_address(shared) + kAlignment - 1) / kAlignment * kAlignment;
}

inline CUresult encode(CUtensorMap& map, void* data, const int (&sizes)[kAxes],
                       const int (&box)[kAxes], const int (&steps)[kAxes],
                       CUtensorMapSwizzle swizzle,
                       CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) {
  cuuint64_t extents[kAxes], strides[kAxes];
  cuuint32_t sides[kAxes], jumps[kAxes];
  cuuint64_t stride = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  for (int a = 0; a < kAxes; ++a) {
    extents[a] = static_cast<cuuint64_t>(sizes[a]);
    strides[a] = stride *= extents[a];
    sides[a] = static_cast<cuuint32_t>(box[a] * steps[a]);
    jumps[a] = static_cast<cuuint32_t>(steps[a]);
  }
  return cuTensorMapEncodeTiled(
      &map, type, kAxes, data, extents, strides, sides, jumps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

// Small integers, of which all sums are exact.
inline float left(int row, int k) {
  return static_cast<float>((3 * row + 5 * k) % 7 - 3);
}
inline float right(int row, int column) {
  return static_cast<float>((2 * row + 3 * column + row * column) % 5 - 2);
}

// The lane's part of the 16 columns of `left` from `first` on, in registers.
inline void pack_left(uint32_t (&a)[4], int first) {
  const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = 16 * warp + g + 8 * (i % 2), k = first + 8 * (i / 2) + 2 * t;
    a[i] = Element(left(row, k)).bits | uint32_t{Element(left(row, k + 1)).bits} << 16;
  }
}

}  // namespace jax_na::cuda
