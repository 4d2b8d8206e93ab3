#include "cuda/hopper/backward/tensor_map.h"

#include <cuda_runtime_api.h>

namespace jax_na::cuda {
namespace {

constexpr int kAxes = 5;  // features of all heads, x, y, z, batch entry

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time: the library links the runtime alone.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &found);
#else
  const cudaError_t status =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<Encode>(function);
}

}  // namespace

std::string encode_map(CUtensorMap& map, const MappedTensor& tensor, const MappedBox& box) {
  static const Encode encode_tiled = find_encode();
  if (encode_tiled == nullptr) return "the driver has no cuTensorMapEncodeTiled";
  cuuint64_t sizes[kAxes], strides[kAxes];  // strides[a]: bytes from one of axis a to the next
  cuuint32_t sides[kAxes], steps[kAxes];
  const int element_bytes = tensor.type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  sizes[0] = static_cast<cuuint64_t>(tensor.columns);
  strides[0] = static_cast<cuuint64_t>(element_bytes);
  sides[0] = static_cast<cuuint32_t>(box.columns);
  steps[0] = 1;
  for (int i = 1; i <= kMaxRank; ++i) {
    const int axis = kMaxRank - i;
    sizes[i] = static_cast<cuuint64_t>(tensor.counts[axis]);
    sides[i] = static_cast<cuuint32_t>(box.counts[axis] * box.steps[axis]);
    steps[i] = static_cast<cuuint32_t>(box.steps[axis]);
  }
  sizes[kAxes - 1] = static_cast<cuuint64_t>(tensor.entries);
  sides[kAxes - 1] = steps[kAxes - 1] = 1;
  for (int i = 1; i < kAxes; ++i) strides[i] = strides[i - 1] * sizes[i - 1];
  const CUresult result = encode_tiled(
      &map, tensor.type, kAxes, const_cast<void*>(tensor.data), sizes, strides + 1, sides, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      box.columns * element_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return "";
  return "encoding a tensor map failed with error " + std::to_string(static_cast<int>(result));
}

}  // namespace jax_na::cuda
