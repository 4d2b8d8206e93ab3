// mbarrier: barriers in shared memory that count arrivals and the bytes of asynchronous copies.
#pragma once

#include <cstdint>

#include "cuda/emulation/mbarrier.h"

namespace jax_na::cuda::ptx {

inline void mbarrier_init(uint32_t barrier, int arrivals) {
  emulation::init_mbarrier(barrier, arrivals);
}

inline void mbarrier_init_fence() {}

inline void mbarrier_arrive(uint32_t barrier) {
  emulation::arrive_at_mbarrier(barrier, 0);
}

inline void mbarrier_arrive_expect(uint32_t barrier, int bytes) {
  emulation::arrive_at_mbarrier(barrier, bytes);
}

// Takes all the time there is: a wait that never ends is told by the emulation.
inline bool mbarrier_try_wait(uint32_t barrier, int parity) {
  emulation::wait_for_mbarrier(barrier, parity);
  return true;
}

inline void mbarrier_wait(uint32_t barrier, int parity) {
  emulation::wait_for_mbarrier(barrier, parity);
}

}  // namespace jax_na::cuda::ptx
