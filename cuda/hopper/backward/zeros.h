// Sums that begin at zero, made so by the kernel that adds to them: the items of a head of keys
// zero what the queries of the next head are due, in equal parts. So zeros are written while
// products are made, and are still in the L2 cache when something is added to them. The sums of the
// first head are zero before the kernel begins.
//
// Items are taken in order, and who takes one writes its zeros: whoever waits for a head waits for
// CTAs that run.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

// Writes the zeros of item `index`, by all lanes of a warp.
__device__ __forceinline__ void write_zeros(const HopperZeros& zeros, int index) {
  if (zeros.sums == nullptr) return;
  const int head = index / zeros.items + 1, part = index % zeros.items;
  if (head >= zeros.heads) return;
  const int64_t begin = static_cast<int64_t>(part) * zeros.item_words;
  const int count =
      static_cast<int>(min(zeros.head_words - begin, static_cast<int64_t>(zeros.item_words)));
  float4* to = zeros.sums + zeros.head_words * head + begin;
#pragma unroll 1  // few registers are left
  for (int i = ptx::lane(); i < count; i += 32) to[i] = make_float4(0.f, 0.f, 0.f, 0.f);
  __threadfence();
  __syncwarp();
  if (ptx::lane() == 0) atomicAdd(zeros.parts + head, 1);
}

// Waits until the sums of a head are zero, or have been; by the thread that has them added to.
__device__ __forceinline__ void wait_for_zeros(const HopperZeros& zeros, int head) {
  if (zeros.sums == nullptr || head == 0) return;
  while (atomicAdd(zeros.parts + head, 0) < zeros.items) {
  }
  __threadfence();
  ptx::fence_async_global();
}

}  // namespace jax_na::cuda
