// Words from registers to shared memory and back.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <cstring>

#include "cuda/emulation/shared_memory.h"

namespace jax_na::cuda::ptx {

inline void store_shared(uint32_t address, uint32_t word) {
  std::memcpy(emulation::shared_bytes(address, 4, "st.shared"), &word, 4);
}

inline void store_shared(uint32_t address, uint32_t word0, uint32_t word1) {
  const uint32_t words[] = {word0, word1};
  std::memcpy(emulation::shared_bytes(address, 8, "st.shared"), words, 8);
}

inline void store_shared(uint32_t address, float a, float b, float c, float d) {
  const float numbers[] = {a, b, c, d};
  std::memcpy(emulation::shared_bytes(address, 16, "st.shared"), numbers, 16);
}

inline uint32_t load_shared(uint32_t address) {
  uint32_t word;
  std::memcpy(&word, emulation::shared_bytes(address, 4, "ld.shared"), 4);
  return word;
}

inline uint4 load_shared_16(uint32_t address) {
  uint4 words;
  std::memcpy(&words, emulation::shared_bytes(address, 16, "ld.shared"), 16);
  return words;
}

}  // namespace jax_na::cuda::ptx
