// mbarriers, known by their shared addresses.
#pragma once

#include <cstdint>

namespace jax_na::emulation {

// Forgets those of an earlier block.
void begin_mbarriers();

void init_mbarrier(uint32_t address, int arrivals);
// Before the phase ends, `bytes` more have to be copied; then one arrival.
void arrive_at_mbarrier(uint32_t address, int bytes);
// `bytes` were copied.
void complete_at_mbarrier(uint32_t address, int bytes);
// Waits until a phase of this parity is the last that ended.
void wait_for_mbarrier(uint32_t address, int parity);

// Fails where there is no barrier.
void check_mbarrier(uint32_t address, const char* what);

}  // namespace jax_na::emulation
