// The 16 numbered barriers of a block.
#pragma once

namespace jax_na::emulation {

// Forgets what threads of an earlier block left behind.
void begin_named_barriers();

// Arrives at a barrier of `threads` threads, and waits for the others where `waits` is true.
void meet_at_barrier(int number, int threads, bool waits);

}  // namespace jax_na::emulation
