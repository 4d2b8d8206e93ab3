// Small problems, each for a feature or two of the kernels.
#pragma once

#include <string>
#include <vector>

#include "core/problem.h"

namespace jax_na::emulation {

struct Case {
  std::string name;
  Problem problem;  // its axes have the origins that kernels are to find in a tensor
};

std::vector<Case> cases();

}  // namespace jax_na::emulation
