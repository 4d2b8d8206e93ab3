// How many registers the threads of a warpgroup have: what one gives up, others may take.
#pragma once

#include "cuda/emulation/registers.h"

namespace jax_na::cuda::ptx {

template <int kRegisters>
void give_up_registers() {
  emulation::give_up_registers(kRegisters);
}

template <int kRegisters>
void take_registers() {
  emulation::take_registers(kRegisters);
}

}  // namespace jax_na::cuda::ptx
