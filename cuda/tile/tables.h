// Where in shared memory a CTA keeps what it finds out.
#pragma once

#include <cstdint>

#include "cuda/tile/shared_map.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

struct CtaTables {
  RowWork* rows;
  Work& work;
  Place* places;
  int* tokens;  // of the stages of two steps
  int* shares;  // of those of kStepsKnown

  __device__ __forceinline__ CtaTables(uint8_t* shared, const SharedMap& map)
      : rows(reinterpret_cast<RowWork*>(shared + map.rows)),
        work(*reinterpret_cast<Work*>(shared + map.work)),
        places(reinterpret_cast<Place*>(shared + map.places)),
        tokens(reinterpret_cast<int*>(shared + map.tokens)),
        shares(reinterpret_cast<int*>(shared + map.shares)) {}
};

}  // namespace jax_na::cuda
