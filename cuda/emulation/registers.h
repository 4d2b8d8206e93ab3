// setmaxnreg: the registers that warps give up and take.
#pragma once

namespace jax_na::emulation {

// As many for every thread as `resident` blocks of a multiprocessor leave it.
void begin_registers(int threads, int resident);

// Of the calling warp: from now on `count` for each of its threads.
void give_up_registers(int count);
// Waits for others to give them up.
void take_registers(int count);

}  // namespace jax_na::emulation
