// Memory whose neighbourhood faults, so that no access past an end goes unseen, and what it holds
// until it is written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jax_na::emulation {

// Not a number as float32, bfloat16 and float16, and as an integer an index far outside of
// everything.
constexpr uint32_t kPoison = 0x7fc17fc1;

// Fills `bytes` bytes.
void poison(void* to, size_t bytes);

// At least `bytes` bytes that end where unreadable memory begins, poisoned; the beginning is
// aligned to `alignment`, a power of two up to a page, at the price of as many readable bytes
// behind the end.
void* allocate_guarded(size_t bytes, size_t alignment);
void free_guarded(void* memory);

}  // namespace jax_na::emulation
