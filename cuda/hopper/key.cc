#include "cuda/hopper/key.h"

namespace jax_na::cuda {

std::string hopper_key(const Problem& problem, Stored stored, const Device& device) {
  std::string key;
  auto add = [&](const auto& value) {
    key.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  add(stored), add(device.multiprocessors), add(device.hopper()), add(problem.batch);
  for (int value : {problem.heads, problem.kv_heads, problem.head_dim, problem.value_dim,
                    problem.additional, problem.bias_batch})
    add(value);
  for (const Axis& axis : problem.axes) {
    for (int value :
         {axis.length, axis.window, axis.stride, axis.dilation, axis.query_count, axis.key_count,
          static_cast<int>(axis.causal), static_cast<int>(axis.boundary)})
      add(value);
  }
  return key;
}

}  // namespace jax_na::cuda
