// The shared memory of a sweep, as offsets from its beginning.
#pragma once

#include <cstdint>

#include "cuda/plan.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

struct SharedMap {
  int stationary;   // of each stationary tensor, the CTA's rows
  int stage;        // for each buffer, the rows of both streamed tensors
  int stage_bytes;  // of one streamed tensor
  int scalars;      // for each buffer, one float2 for every streamed row; key gradient only
  int columns;
  int rows;
  int work;
  int total;

  // `tensors` stationary ones with rows of `row_bytes`.
  JAX_NA_INLINE SharedMap(const Sweep& sweep, int row_bytes, int tensors, bool with_scalars,
                          int columns_bytes) {
    auto align = [](int bytes) { return (bytes + 127) / 128 * 128; };
    stationary = 0;
    stage = tensors * sweep.rows() * row_bytes;
    stage_bytes = align(sweep.stage_rows() * row_bytes);
    scalars = stage + 2 * sweep.buffers * stage_bytes;
    columns = scalars + (with_scalars ? align(sweep.buffers * sweep.stage_rows() *
                                              static_cast<int>(2 * sizeof(float)))
                                      : 0);
    rows = columns + align(columns_bytes);
    work = rows + align(sweep.rows() * static_cast<int>(sizeof(RowWork)));
    total = work + align(static_cast<int>(sizeof(Work)));
  }
};

}  // namespace jax_na::cuda
