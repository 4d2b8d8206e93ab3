// What the kernels ask of the operating system's memory.
#pragma once

#include <cstdint>

namespace jax_na {

// Asks for huge pages under memory that is about to be written whole, if it is large. XLA hands
// over results in memory that is fresh in every call, and the first touch of its small pages can
// cost a third of a whole call. A hint: where there are none, nothing happens.
void prefer_huge_pages(void* data, int64_t bytes);

}  // namespace jax_na
