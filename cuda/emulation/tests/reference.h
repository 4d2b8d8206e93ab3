// Neighborhood attention and its gradients as their definition says it, in double precision. Of the
// project's code it uses Rule::window_of alone.
#pragma once

#include <vector>

#include "core/problem.h"

namespace jax_na::emulation {

// Tensors in the layouts of Problem.
struct Inputs {
  Problem problem;  // with its axes' origins
  std::vector<double> query, key, value, additional_keys, additional_values, bias;
  std::vector<double> dout, dlse;
};

struct Results {
  std::vector<double> out, lse;
  std::vector<double> dquery, dkey, dvalue, dadditional_keys, dadditional_values;
  std::vector<double> dbias;  // [batch, heads, 2w-1 per axis]
};

Results reference(const Inputs& inputs);

}  // namespace jax_na::emulation
