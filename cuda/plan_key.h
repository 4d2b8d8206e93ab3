// What plans are remembered by: numbers, one after the other, as bytes.
#pragma once

#include <string>

#include "core/problem.h"

namespace jax_na::cuda {

template <typename T>
void add_to_key(std::string& key, const T& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// A problem but for its scale, which no plan depends on.
inline std::string problem_key(const Problem& problem) {
  std::string key;
  add_to_key(key, problem.batch);
  for (int value : {problem.heads, problem.kv_heads, problem.head_dim, problem.value_dim,
                    problem.additional, problem.bias_batch})
    add_to_key(key, value);
  for (const Axis& axis : problem.axes) {
    for (int value :
         {axis.length, axis.window, axis.stride, axis.dilation, axis.query_count, axis.key_count,
          static_cast<int>(axis.causal), static_cast<int>(axis.boundary)})
      add_to_key(key, value);
  }
  return key;
}

}  // namespace jax_na::cuda
