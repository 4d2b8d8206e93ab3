// stmatrix: four 8x8 matrices of 16-bit elements from fragments to shared memory.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/emulation/block.h"
#include "cuda/emulation/shared_memory.h"

namespace jax_na::cuda::ptx {

inline void stmatrix(uint32_t address, const uint32_t (&from)[4]) {
  struct Stored {
    uint32_t address;
    const uint32_t* from;
  } own{address, from};
  emulation::meet_whole_warp("stmatrix", &own, [](emulation::Operands operands) {
    for (int i = 0; i < 4; ++i) {
      for (int row = 0; row < 8; ++row) {
        uint32_t words[4];
        for (int t = 0; t < 4; ++t)
          words[t] = static_cast<const Stored*>(operands[4 * row + t])->from[i];
        const uint32_t to = static_cast<const Stored*>(operands[8 * i + row])->address;
        std::memcpy(emulation::shared_bytes(to, 16, "stmatrix"), words, 16);
      }
    }
  });
}

}  // namespace jax_na::cuda::ptx
