#include "cuda/hopper/tensor_map.h"

#include <cuda_runtime_api.h>

namespace jax_na::cuda {
namespace {

constexpr int kAxes = 5;

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

MappedTensor whole_tensor(const void* data, CUtensorMapDataType type, int features, int heads,
                          const int (&counts)[kMaxRank], int64_t entries) {
  MappedTensor tensor{data, type, features, heads, {}, {}, entries, 1, 0};
  for (int a = kMaxRank - 1; a >= 0; --a) {
    tensor.counts[a] = counts[a];
    tensor.steps[a] = tensor.entry;
    tensor.entry *= counts[a];
  }
  return tensor;
}

MappedTensor phase_of(const MappedTensor& whole, const int (&phases)[kMaxRank],
                      const int (&phase)[kMaxRank]) {
  MappedTensor part = whole;
  for (int a = 0; a < kMaxRank; ++a) {
    part.counts[a] = (whole.counts[a] - phase[a] + phases[a] - 1) / phases[a];
    part.steps[a] = whole.steps[a] * phases[a];
    part.first += whole.steps[a] * phase[a];
  }
  return part;
}

std::string encode_map(CUtensorMap& map, bool heads_apart, const MappedTensor& tensor,
                       const MappedBox& box) {
  static const Encode encode_tiled = find_encode();
  if (encode_tiled == nullptr) return "the driver has no cuTensorMapEncodeTiled";
  cuuint64_t sizes[kAxes], strides[kAxes];  // strides[a]: bytes from one of axis a to the next
  cuuint32_t sides[kAxes], steps[kAxes];
  const int bytes = tensor.type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  const int64_t token_bytes = int64_t{bytes} * tensor.heads * tensor.features;
  int axes = 0;
  auto add = [&](int64_t size, int64_t stride, int side, int step) {
    sizes[axes] = static_cast<cuuint64_t>(size);
    strides[axes] = static_cast<cuuint64_t>(stride);
    sides[axes] = static_cast<cuuint32_t>(side * step);
    steps[axes] = static_cast<cuuint32_t>(step);
    ++axes;
  };
  auto add_axis = [&](int a) {
    add(tensor.counts[a], tensor.steps[a] * token_bytes, box.counts[a], box.steps[a]);
  };
  if (heads_apart) {
    add(tensor.features, bytes, box.columns, 1);
    add(tensor.heads, int64_t{bytes} * tensor.features, 1, 1);
  } else {
    add(static_cast<int64_t>(tensor.heads) * tensor.features, bytes, box.columns, 1);
  }
  add_axis(2);
  add_axis(1);
  if (!heads_apart || tensor.entries == 1) add_axis(0);
  if (!heads_apart || tensor.entries != 1) add(tensor.entries, tensor.entry * token_bytes, 1, 1);
  const char* data = static_cast<const char*>(tensor.data) + tensor.first * token_bytes;
  const CUresult result = encode_tiled(
      &map, tensor.type, kAxes, const_cast<char*>(data), sizes, strides + 1, sides, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      box.columns * bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      box.fetch_128 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return "";
  return "encoding a tensor map failed with error " + std::to_string(static_cast<int>(result));
}

}  // namespace jax_na::cuda
