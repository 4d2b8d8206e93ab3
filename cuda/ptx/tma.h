// The tensor memory accelerator: copies of boxes between tensors of five axes and shared memory.
//
// A box is written to shared memory as rows of its innermost axis, in the order of its tokens, with
// the 16-byte chunks of a row swizzled as the tensor map says. Loads may begin anywhere and fill
// with zeros what is outside of the tensor; stores leave that out but may not begin below 0.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace jax_na::cuda::ptx {

// Counts the whole box at `barrier`, also what is filled with zeros.
__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                         int column, int x, int y, int z, int entry) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(column), "r"(x), "r"(y), "r"(z),
      "r"(entry)
      : "memory");
}

// How the L2 cache treats what a copy touches: a copy with a policy of these.
__device__ __forceinline__ uint64_t tma_evict_first() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ uint64_t tma_evict_normal() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ uint64_t tma_evict_last() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                         uint64_t policy, int column, int x, int y, int z,
                                         int entry) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(column), "r"(x), "r"(y), "r"(z),
      "r"(entry), "l"(policy)
      : "memory");
}

// Part of the thread's next group of stores.
__device__ __forceinline__ void tma_store(const CUtensorMap* map, uint32_t from, int column, int x,
                                          int y, int z, int entry) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group"
      " [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(reinterpret_cast<uint64_t>(map)),
      "r"(from), "r"(column), "r"(x), "r"(y), "r"(z), "r"(entry)
      : "memory");
}

// Adds a box of float32 to the tensor; part of the thread's next group of stores.
__device__ __forceinline__ void tma_reduce_add(const CUtensorMap* map, uint32_t from,
                                               uint64_t policy, int column, int x, int y, int z,
                                               int entry) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group.L2::cache_hint"
      " [%0, {%2, %3, %4, %5, %6}], [%1], %7;" ::"l"(reinterpret_cast<uint64_t>(map)),
      "r"(from), "r"(column), "r"(x), "r"(y), "r"(z), "r"(entry), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until all but the thread's last `kPending` groups of stores have read their shared memory.
template <int kPending = 0>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Shows this thread's ordinary writes of shared memory to the tensor cores and the copy engine. A
// barrier among the threads is due after.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace jax_na::cuda::ptx
