// The shared memory of a sweep, as offsets from its beginning.
#pragma once

#include <cstdint>

namespace jax_na::cuda {

struct SharedMap {
  int stationary = 0;        // for each buffer, the CTA's rows of the stationary tensors
  int stationary_bytes = 0;  // of one of them
  int stage = 0;             // for each buffer, the rows of both streamed tensors
  int stage_bytes = 0;       // of one of them
  int scalars = 0;  // for each buffer, one float2 for every streamed row; key gradient only
  int tokens = 0;   // two tables of the rows of a stage
  int places = 0;   // of the rows of a stage
  int shares = 0;   // for each known step, of the positions of a stage along each axis
  int columns = 0;
  int rows = 0;
  int work = 0;
  int list = 0;  // of stages and items, where a kernel streams alone
  int total = 0;
};

}  // namespace jax_na::cuda
