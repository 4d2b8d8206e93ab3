// What a kernel finds without including anything: CUDA's words, its built-in variables and
// functions. To be included before all else, as nvcc does by itself.
#pragma once

#include <cuda_runtime_api.h>
#include <math.h>

#include <cstdint>
#include <cstring>

#include "cuda/emulation/block.h"
#include "cuda/emulation/fail.h"
#include "cuda/emulation/shared_memory.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
// One block runs at a time.
#define __shared__ static

// ---- Arithmetic
// ----------------------------------------------------------------------------------

inline int min(int a, int b) {
  return a < b ? a : b;
}
inline int max(int a, int b) {
  return a > b ? a : b;
}
inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t max(int64_t a, int64_t b) {
  return a > b ? a : b;
}

inline unsigned max(unsigned a, unsigned b) {
  return a > b ? a : b;
}

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __expf(float x) {
  return expf(x);
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// To the nearest, and what is no number to 0, as the instruction does it.
inline long long __float2ll_rn(float x) {
  if (!(x < 0x1p63f)) return x > 0 ? INT64_MAX : 0;
  return x < -0x1p63f ? INT64_MIN : llrintf(x);
}

// ---- Threads that meet
// ---------------------------------------------------------------------------

inline void __syncthreads() {
  jax_na::emulation::meet_block();
}

inline void __syncwarp() {
  jax_na::emulation::meet_warp("__syncwarp", nullptr, [](jax_na::emulation::Operands) {});
}

namespace jax_na::emulation {

template <typename T>
struct Shuffled {
  T value;
  int source;  // lane
  T got;
};

// Every lane gets the value of a lane.
template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source) {
  if (mask != ~0u) fail("%s: its mask 0x%x is not of the whole warp", name, mask);
  Shuffled<T> own{value, source, value};
  meet_warp(name, &own, [](Operands operands) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      auto* mine = static_cast<Shuffled<T>*>(operands[lane]);
      if (mine == nullptr) continue;
      const void* from = operands[mine->source];
      if (from == nullptr) fail("a shuffle reads lane %d, which has ended", mine->source);
      mine->got = static_cast<const Shuffled<T>*>(from)->value;
    }
  });
  return own.got;
}

}  // namespace jax_na::emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return jax_na::emulation::shuffle("__shfl_sync", mask, value, source & 31);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flipped) {
  const int lane = jax_na::emulation::this_thread() % jax_na::emulation::kWarpSize;
  return jax_na::emulation::shuffle("__shfl_xor_sync", mask, value, (lane ^ flipped) & 31);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  using namespace jax_na::emulation;
  if (mask != ~0u) fail("__ballot_sync: its mask 0x%x is not of the whole warp", mask);
  struct Vote {
    bool mine;
    unsigned all;
  } own{predicate != 0, 0};
  meet_warp("__ballot_sync", &own, [](Operands operands) {
    unsigned all = 0;
    for (int lane = 0; lane < kWarpSize; ++lane)
      if (operands[lane] != nullptr && static_cast<Vote*>(operands[lane])->mine) all |= 1u << lane;
    for (int lane = 0; lane < kWarpSize; ++lane)
      if (operands[lane] != nullptr) static_cast<Vote*>(operands[lane])->all = all;
  });
  return own.all;
}

inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}

// ---- Memory
// --------------------------------------------------------------------------------------

template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}

template <typename T>
T atomicMax(T* address, T value) {
  const T old = *address;
  *address = old < value ? value : old;
  return old;
}

// Writes are seen in the order in which they are made.
inline void __threadfence() {}

inline size_t __cvta_generic_to_shared(const void* pointer) {
  return jax_na::emulation::shared_address_of(pointer);
}
