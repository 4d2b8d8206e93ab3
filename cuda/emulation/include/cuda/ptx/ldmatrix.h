// ldmatrix: four 8x8 matrices of 16-bit elements from shared memory to the fragments of mma.sync.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/emulation/block.h"
#include "cuda/emulation/shared_memory.h"

namespace jax_na::cuda::ptx {

inline uint32_t shared_address(const void* pointer) {
  return emulation::shared_address_of(pointer);
}

struct LoadedMatrices {
  uint32_t address;
  uint32_t* to;  // 4
};

template <bool kTransposed>
void load_matrices(emulation::Operands operands) {
  for (int i = 0; i < 4; ++i) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) {
      const auto* lane = static_cast<const LoadedMatrices*>(operands[8 * i + row]);
      std::memcpy(matrix[row], emulation::shared_bytes(lane->address, 16, "ldmatrix"), 16);
    }
    for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const uint32_t low = kTransposed ? matrix[2 * t][g] : matrix[g][2 * t];
      const uint32_t high = kTransposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      static_cast<LoadedMatrices*>(operands[lane])->to[i] = low | high << 16;
    }
  }
}

inline void ldmatrix(uint32_t (&to)[4], uint32_t address) {
  LoadedMatrices own{address, to};
  emulation::meet_whole_warp("ldmatrix", &own, load_matrices<false>);
}

inline void ldmatrix_transposed(uint32_t (&to)[4], uint32_t address) {
  LoadedMatrices own{address, to};
  emulation::meet_whole_warp("ldmatrix.trans", &own, load_matrices<true>);
}

}  // namespace jax_na::cuda::ptx
