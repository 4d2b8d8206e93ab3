// Tensor maps of the backward pass: how the copy engine sees the tensors of a problem.
#pragma once

#include <string>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// Columns of boxes in elements: of what is read, and of the gradients of keys and values.
struct HopperBackwardColumns {
  int line, out;
};

// Of every 32 features that a head has some of, in the sums.
constexpr int sum_features(int head_dim) {
  return (head_dim + 31) / 32 * 32;
}

// Fills what `to` knows of the tensors: maps, and where statistics are, for the launch of `phase`,
// whose plan and problem are in `to`; `sums` may be null. Returns an empty text or what is wrong.
std::string encode_maps(const Backward& from, const int (&phase)[kMaxRank],
                        const HopperBackwardColumns& boxes, const float* sums,
                        const float2* statistics, HopperBackwardArguments& to);

}  // namespace jax_na::cuda
