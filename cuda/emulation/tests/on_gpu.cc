// What the test programs take from the emulation, where a GPU takes its place.
#include "cuda/emulation/block.h"

namespace jax_na::emulation {

void set_seed(uint64_t) {}  // a GPU has its own order of things

}  // namespace jax_na::emulation
