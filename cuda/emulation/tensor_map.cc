#include "cuda/emulation/tensor_map.h"

#include <cstring>

#include "cuda/emulation/fail.h"

namespace jax_na::emulation {

TensorMap read_tensor_map(const CUtensorMap* map) {
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0) fail("a tensor map is not aligned to 64 bytes");
  TensorMap read;
  std::memcpy(&read, map, sizeof read);
  if (read.rank < 1 || read.rank > kTensorMapAxes) fail("a tensor map was never encoded");
  return read;
}

}  // namespace jax_na::emulation

using jax_na::emulation::kTensorMapAxes;
using jax_na::emulation::TensorMap;

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* data, const cuuint64_t* sizes, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* steps,
                                CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  constexpr cuuint64_t kMostSize = cuuint64_t{1} << 32, kMostStride = cuuint64_t{1} << 40;
  constexpr cuuint32_t kMostBox = 256, kMostStep = 8;
  if (rank < 1 || rank > kTensorMapAxes || reinterpret_cast<uintptr_t>(data) % 16 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  TensorMap made{};
  made.data = static_cast<unsigned char*>(data);
  made.rank = static_cast<uint8_t>(rank);
  made.element_bytes = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  made.swizzle = static_cast<uint8_t>(swizzle);
  for (cuuint32_t a = 0; a < rank; ++a) {
    if (sizes[a] == 0 || sizes[a] >= kMostSize || box[a] == 0 || box[a] > kMostBox ||
        steps[a] == 0 || steps[a] > kMostStep)
      return CUDA_ERROR_INVALID_VALUE;
    if (a > 0 && (strides[a - 1] % 16 != 0 || strides[a - 1] >= kMostStride))
      return CUDA_ERROR_INVALID_VALUE;
    made.sizes[a] = static_cast<uint32_t>(sizes[a]);
    made.strides[a] = a == 0 ? made.element_bytes : strides[a - 1];
    made.steps[a] = a == 0 ? 1 : static_cast<uint8_t>(steps[a]);  // the innermost has none
    made.box[a] = static_cast<uint16_t>((box[a] + made.steps[a] - 1) / made.steps[a]);
  }
  const int span = 16 << made.swizzle;
  if (made.row_bytes() % 16 != 0 || (made.swizzle > 0 && made.row_bytes() > span))
    return CUDA_ERROR_INVALID_VALUE;
  if (made.swizzle > 0 && made.row_bytes() < span)
    jax_na::emulation::fail("boxes of %d bytes in a swizzle of %d bytes are not emulated",
                            made.row_bytes(), span);
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &made, sizeof made);
  return CUDA_SUCCESS;
}
