// The copies from global to shared memory that each thread has under way.
//
// They are made as late as the program allows, when they are waited for. Until then their target is
// poisoned, so that whoever reads it too early, or still needs what was there, is found out.
#pragma once

#include <cstdint>

namespace jax_na::emulation {

// Forgets what threads of an earlier block left under way.
void begin_async_copies(int threads);

// Of this thread: starts a copy of `bytes` bytes, or of as many zeros where `valid` is false; ends
// a group; waits until at most `pending` groups are under way.
void start_async_copy(uint32_t to, const void* from, uint32_t bytes, bool valid);
void commit_async_copies();
void wait_async_copies(int pending);

}  // namespace jax_na::emulation
