// What the Hopper kernels remember of problems that they met.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "core/problem.h"
#include "core/stored.h"
#include "cuda/device.h"
#include "cuda/plan_key.h"

namespace jax_na::cuda {

inline std::string hopper_key(const Problem& problem, Stored stored, const Device& device) {
  std::string key = problem_key(problem);
  add_to_key(key, stored);
  add_to_key(key, device.multiprocessors);
  add_to_key(key, device.hopper());
  return key;
}

// What `find` says, asked once for every key. Each caller has a memory of its own: no two lambdas
// are of one type.
template <typename Find>
auto remembered(const std::string& key, Find find) {
  static std::mutex mutex;
  static std::map<std::string, decltype(find())> known;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, find()).first;
  return found->second;
}

}  // namespace jax_na::cuda
