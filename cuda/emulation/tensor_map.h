// What a tensor map holds.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace jax_na::emulation {

constexpr int kTensorMapAxes = 5;

struct TensorMap {
  unsigned char* data;
  uint64_t strides[kTensorMapAxes];  // bytes
  uint32_t sizes[kTensorMapAxes];
  uint16_t box[kTensorMapAxes];  // elements that are copied
  uint8_t steps[kTensorMapAxes];
  uint8_t rank;
  uint8_t element_bytes;
  uint8_t swizzle;  // bits of the address that are changed

  int row_bytes() const { return box[0] * element_bytes; }
  int box_bytes() const {
    int bytes = element_bytes;
    for (int a = 0; a < rank; ++a) bytes *= box[a];
    return bytes;
  }
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

// Fails where it was not encoded.
TensorMap read_tensor_map(const CUtensorMap* map);

// Where a byte of a swizzled row lies: of its 16-byte chunk's number the lower `bits` change with
// the number of the 128 bytes that it is in.
inline uint32_t swizzled(uint32_t address, int bits) {
  return address ^ ((address >> 7 & ((1u << bits) - 1)) << 4);
}

}  // namespace jax_na::emulation
