// The tensor memory accelerator: copies of boxes between tensors of five axes and shared memory.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/emulation/bulk_copies.h"
#include "cuda/emulation/tensor_map.h"

namespace jax_na::cuda::ptx {

inline void tma_prefetch_map(const CUtensorMap* map) {
  emulation::read_tensor_map(map);
}

inline void tma_load(uint32_t to, const CUtensorMap* map, uint32_t barrier, int column, int x,
                     int y, int z, int entry) {
  emulation::start_bulk_load(to, map, barrier, {column, x, y, z, entry});
}

inline uint64_t tma_evict_first() {
  return 1;
}
inline uint64_t tma_evict_normal() {
  return 0;
}
inline uint64_t tma_evict_last() {
  return 2;
}

inline void tma_load(uint32_t to, const CUtensorMap* map, uint32_t barrier, uint64_t, int column,
                     int x, int y, int z, int entry) {
  tma_load(to, map, barrier, column, x, y, z, entry);
}

inline void tma_store(const CUtensorMap* map, uint32_t from, int column, int x, int y, int z,
                      int entry) {
  emulation::start_bulk_store(map, from, {column, x, y, z, entry}, false);
}

inline void tma_reduce_add(const CUtensorMap* map, uint32_t from, uint64_t, int column, int x,
                           int y, int z, int entry) {
  emulation::start_bulk_store(map, from, {column, x, y, z, entry}, true);
}

inline void tma_store_commit() {
  emulation::commit_bulk_stores();
}

template <int kPending = 0>
void tma_store_wait_read() {
  emulation::wait_bulk_stores(kPending);
}

inline void fence_async_shared() {}

}  // namespace jax_na::cuda::ptx
