// From an element type that is known at run time to one that is known to the compiler.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "core/stored.h"

namespace jax_na::cuda {

// Calls `run` with an element of the type, one of those that tensor cores multiply.
template <typename Run>
cudaError_t by_type(Stored stored, Run run) {
  switch (stored) {
    case Stored::kFloat32:
      return run(float());
    case Stored::kBFloat16:
      return run(__nv_bfloat16());
    case Stored::kFloat16:
      return run(__half());
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace jax_na::cuda
