// wgmma: products of a warpgroup's 64 rows, with operands in shared memory, accumulated in float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/emulation/wgmma.h"

namespace jax_na::cuda::ptx {

template <int kRowBytes = 128>
uint64_t wgmma_operand(uint32_t address, uint32_t panel_bytes) {
  constexpr uint64_t kSwizzle = uint64_t{kRowBytes == 128 ? 1 : 2} << 62;
  constexpr uint64_t kEightRows = uint64_t{8 * kRowBytes >> 4} << 32;
  return kSwizzle | kEightRows | (uint64_t{panel_bytes >> 4} << 16) | ((address & 0x3ffff) >> 4);
}
inline uint64_t wgmma_advance(uint64_t operand, int bytes) {
  return operand + (bytes >> 4);
}

inline void wgmma_fence() {
  emulation::fence_wgmma();
}
inline void wgmma_commit() {
  emulation::commit_wgmma();
}
template <int kPending>
void wgmma_wait() {
  emulation::wait_wgmma(kPending);
}
template <int kBegin, int kEnd, int kCount>
void keep_here(float (&)[kCount]) {}
template <int kCount>
void keep_here(float (&)[kCount]) {}

template <typename T>
float number_of_bits(uint16_t bits) {
  T number;
  number.bits = bits;
  return number;
}

template <typename T, int kColumns>
void wgmma(float (&d)[kColumns / 2], uint64_t a, uint64_t b, int add) {
  emulation::issue_wgmma({d, kColumns, nullptr, a, b, false, false, add != 0, number_of_bits<T>});
}

template <typename T, int kColumns>
void wgmma_by_rows(float (&d)[kColumns / 2], uint64_t a, uint64_t b, int add) {
  emulation::issue_wgmma({d, kColumns, nullptr, a, b, false, true, add != 0, number_of_bits<T>});
}

template <typename T, int kColumns>
void wgmma_by_depth(float (&d)[kColumns / 2], uint64_t a, uint64_t b, int add) {
  emulation::issue_wgmma({d, kColumns, nullptr, a, b, true, true, add != 0, number_of_bits<T>});
}

template <typename T, int kColumns>
void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, int add) {
  emulation::issue_wgmma({d, kColumns, a, 0, b, false, true, add != 0, number_of_bits<T>});
}

}  // namespace jax_na::cuda::ptx
