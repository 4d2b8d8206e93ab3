// Which compiled kernel runs a pass of a problem, and how it cuts it.
#pragma once

#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/plan.h"

namespace jax_na::cuda {

// A compiled kernel. It takes (Forward or Backward, Sweep) by value, and a grid of (boxes of all
// dilation groups, CTAs that share the heads and batch entries of a box).
struct Instance {
  KernelLimits limits;
  Precision precision;  // of float32; other types have kDefault
  const void* kernel;
  int parts = 1;  // of the features of a head, each an item
};

struct Choice {
  const Instance* instance = nullptr;
  Sweep sweep;
  double clocks = 0;  // predicted, of one multiprocessor
};

// The fastest of `instances` for the problem, as predicted; instance is null where none can run it.
// Remembered, so that a repeated call costs a look-up.
Choice choose(const std::vector<Instance>& instances, Pass pass, const Problem& problem,
              Precision precision, const Device& device);
// The same on the current device.
Choice choose(const std::vector<Instance>& instances, Pass pass, const Problem& problem,
              Precision precision);

// Launches what was chosen for a pass of the problem; `arguments` points to the kernel's first
// argument. Returns an empty text or what is wrong.
std::string launch(const Choice& choice, Pass pass, const Problem& problem, const void* arguments,
                   cudaStream_t stream);
// Chooses and launches.
std::string dispatch(const std::vector<Instance>& instances, Pass pass, const Problem& problem,
                     Precision precision, const void* arguments, cudaStream_t stream);

// Loads the kernels and allows them the shared memory they may ask for.
std::string load(const std::vector<Instance>& instances);

// The kernels of an element type, defined where they are compiled.
template <typename T>
const std::vector<Instance>& forward_instances();
template <typename T>
const std::vector<Instance>& query_gradient_instances();
template <typename T>
const std::vector<Instance>& key_gradient_instances();

// Those of a pass for an element type; none for float64.
const std::vector<Instance>& instances_of(Pass pass, Stored stored);

}  // namespace jax_na::cuda
