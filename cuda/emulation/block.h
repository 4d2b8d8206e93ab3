// The threads of one block: one fiber each, run in turns in a single thread of the host.
//
// A fiber runs until it has to wait for others: at an operation of its warp, or at the barrier of
// the block. Which one goes on then is drawn at random, so that an order that happens to work is
// not the only one that is tried.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace jax_na::emulation {

constexpr int kWarpSize = 32;

// Runs `body` in every thread of every block. A multiprocessor has registers for `resident` blocks.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body,
              int resident = 1);

// Whether a block is being run.
bool running();

// Which random orders are drawn.
void set_seed(uint64_t seed);

// This thread's number in its block.
int this_thread();

// Where the operands of one lane are that meets the others of its warp.
using Operands = void* const*;  // [kWarpSize], null where a lane has ended

// Waits until every living lane of the warp is here, with the operation of the same `name` (a
// literal), and lets the last one run `perform` on the operands of all.
void meet_warp(const char* name, void* operands, void (*perform)(Operands));

// The same for an operation that no lane may have ended before.
void meet_whole_warp(const char* name, void* operands, void (*perform)(Operands));

// Waits until every living thread of the block is here.
void meet_block();

// Waits until something wakes the threads that wait for `key`, for whatever reason. `what` and
// `number` tell a person what it is.
void sleep_on(const void* key, const char* what, int number);
void wake(const void* key);

// A random number from 0 to end - 1.
int draw_below(int end);

// A warp's lane 0 is thread 32 * this_warp_number().
inline int this_warp_number() {
  return this_thread() / kWarpSize;
}

}  // namespace jax_na::emulation
