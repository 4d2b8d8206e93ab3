// What was found out about a problem, for whoever asks again: a call should cost no more than a
// look-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <type_traits>
#include <unordered_map>

#include "core/problem.h"

namespace jax_na::cuda {

// A problem but for its scale, which no plan depends on, and whatever else decides.
class PlanKey {
 public:
  template <typename... More>
  explicit PlanKey(const Problem& problem, const More&... more) {
    static_assert(kOfProblem + (sizeof(More) + ... + 0) <= sizeof words_);
    add(problem.batch);
    add(problem.heads);
    add(problem.kv_heads);
    add(problem.head_dim);
    add(problem.value_dim);
    add(problem.additional);
    add(problem.bias_batch);
    for (const Axis& axis : problem.axes) {
      for (int value :
           {axis.length, axis.window, axis.stride, axis.dilation, axis.query_count, axis.key_count,
            static_cast<int>(axis.causal), static_cast<int>(axis.boundary)})
        add(value);
    }
    (add(more), ...);
  }

  bool operator==(const PlanKey& other) const {
    return bytes_ == other.bytes_ && std::memcmp(words_, other.words_, bytes_) == 0;
  }
  size_t hash() const {
    uint64_t mixed = bytes_;
    for (size_t i = 0; 8 * i < bytes_; ++i) {
      mixed = (mixed ^ words_[i]) * 0x9e3779b97f4a7c15;
      mixed ^= mixed >> 32;
    }
    return static_cast<size_t>(mixed);
  }

 private:
  static constexpr size_t kOfProblem = 8 + 6 * 4 + kMaxRank * 8 * 4;

  template <typename T>
  void add(const T& value) {
    static_assert(std::has_unique_object_representations_v<T>, "equal ones have equal bytes");
    std::memcpy(reinterpret_cast<unsigned char*>(words_) + bytes_, &value, sizeof value);
    bytes_ += sizeof value;
  }

  uint64_t words_[28] = {};  // zeros behind the last byte in use
  size_t bytes_ = 0;
};

// What `find` says, asked once for every key. Each caller has a memory of its own: no two lambdas
// are of one type.
template <typename Find>
auto remembered(const PlanKey& key, Find find) {
  struct Hash {
    size_t operator()(const PlanKey& of) const { return of.hash(); }
  };
  static std::mutex mutex;
  static std::unordered_map<PlanKey, decltype(find()), Hash> known;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, find()).first;
  return found->second;
}

}  // namespace jax_na::cuda
