// The numbered barriers of a block, for some of its warps.
#pragma once

#include "cuda/emulation/named_barrier.h"

namespace jax_na::cuda::ptx {

inline void barrier_sync(int number, int threads) {
  emulation::meet_at_barrier(number, threads, true);
}

inline void barrier_arrive(int number, int threads) {
  emulation::meet_at_barrier(number, threads, false);
}

}  // namespace jax_na::cuda::ptx
