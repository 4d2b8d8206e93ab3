#include "cuda/emulation/named_barrier.h"

#include <cstdint>

#include "cuda/emulation/block.h"
#include "cuda/emulation/fail.h"

namespace jax_na::emulation {
namespace {

constexpr int kBarriers = 16;

struct Barrier {
  int threads = 0;  // in all
  int here = 0;
  int64_t phase = 0;
};
Barrier barriers[kBarriers];

}  // namespace

void begin_named_barriers() {
  for (Barrier& barrier : barriers) barrier = Barrier();
}

void meet_at_barrier(int number, int threads, bool waits) {
  // Number 0 is __syncthreads, which the emulation has apart.
  if (number < 1 || number >= kBarriers) fail("barrier %d: numbers go from 1 to 15", number);
  if (threads < kWarpSize || threads % kWarpSize != 0 ||
      threads > static_cast<int>(blockDim.x * blockDim.y * blockDim.z))
    fail("barrier %d: %d threads are not whole warps of the block", number, threads);
  Barrier& barrier = barriers[number];
  if (barrier.here > 0 && barrier.threads != threads)
    fail("barrier %d: some say %d threads, one says %d", number, barrier.threads, threads);
  barrier.threads = threads;
  const int64_t phase = barrier.phase;
  if (++barrier.here == threads) {
    barrier.here = 0;
    ++barrier.phase;
    wake(&barrier);
  }
  while (waits && barrier.phase == phase) sleep_on(&barrier, "barrier", number);
}

}  // namespace jax_na::emulation
