// The steps between the matrix products, row by row of the window-shaped tensors.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/launch.h"

namespace jax_na::cuda {

// Replaces scores by their softmax, of the type of the tensors and in the same place: row i of the
// weights begins where row i of the scores does. Writes lse.
cudaError_t softmax(const Forward& arguments, float* scores, cudaStream_t stream);

// Given the scores, and the cotangents of the weights, replaces those by the weights and these by
// the cotangents of the scores, likewise. Writes delta = sum(dout * out) - dlse, [batch, tokens,
// heads], and the cotangents of the scores as floats to `unrounded`, unless it is null.
cudaError_t softmax_gradient(const Backward& arguments, float* scores, float* dweights,
                             float* delta, float* unrounded, cudaStream_t stream);

// The gradient of the bias, from the cotangents of the scores that softmax_gradient left, as
// floats: sums of rounded ones would be less exact than those of the other implementations.
cudaError_t bias_gradient(const Backward& arguments, const float* dscores, cudaStream_t stream);

// Loads the kernels.
cudaError_t load_softmax();
cudaError_t load_bias_gradient();

}  // namespace jax_na::cuda
