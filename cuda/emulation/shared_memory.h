// The dynamic shared memory of the running block, and the 32-bit addresses that PTX gives it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jax_na::emulation {

// Makes room for the block about to run, poisoned.
void begin_shared_memory(size_t bytes);

// Its first byte, aligned to 128 and to no more.
unsigned char* shared_memory();

// The address of a byte of it, and back: `bytes` bytes there, in bounds and aligned to as many.
uint32_t shared_address_of(const void* pointer);
void* shared_bytes(uint32_t address, uint32_t bytes, const char* what);

}  // namespace jax_na::emulation
