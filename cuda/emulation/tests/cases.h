// Small problems, each for a feature or two of the kernels.
#pragma once

#include <string>
#include <vector>

#include "core/problem.h"

namespace jax_na::emulation {

struct Case {
  std::string name;
  Problem problem;      // its axes have the origins that kernels are to find in a tensor
  bool astray = false;  // the tensor says that slabs at the ends of an axis lie far beyond them
};

std::vector<Case> cases();

// Some with head dimensions that need a kernel of just this one.
std::vector<Case> cases_of_head_dim(int head_dim);

// Some whose keys come in stages to a kernel that streams: one of them, and more than it describes
// at a time.
std::vector<Case> cases_of_stages(int head_dim);

// One that depends on nothing but the seed.
Case random_case(int seed);

}  // namespace jax_na::emulation
