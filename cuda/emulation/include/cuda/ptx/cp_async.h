// cp.async: copies from global to shared memory that bypass the registers.
#pragma once

#include <cstdint>

#include "cuda/emulation/async_copies.h"

namespace jax_na::cuda::ptx {

inline void cp_async(uint32_t to, const void* from, bool valid) {
  emulation::start_async_copy(to, from, 16, valid);
}

inline void cp_async_if(bool wanted, uint32_t to, const void* from, bool valid) {
  if (wanted) cp_async(to, from, valid);
}

inline void cp_async_where(uint32_t bits, uint32_t to, const void* from, bool wanted = true) {
  if (wanted) cp_async(to, from, bits != 0);
}

inline void cp_async_4(uint32_t to, const void* from, bool valid) {
  emulation::start_async_copy(to, from, 4, valid);
}

inline void cp_async_commit() {
  emulation::commit_async_copies();
}

template <int kPending>
inline void cp_async_wait() {
  emulation::wait_async_copies(kPending);
}

}  // namespace jax_na::cuda::ptx
