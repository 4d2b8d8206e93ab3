// Scratch memory of one worker: laid out once per tile size by asking for the same pieces twice,
// first to count.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jax_na {

class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}

  // Room for `count` elements, on a cache line of its own, with a vector to spare behind it: the
  // last strip of a line reads past its tokens. With a null base only the sizes are added up.
  template <typename T>
  T* take(int64_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + kLine - 1) / kLine * kLine + kLine;
    return reinterpret_cast<T*>(at);
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kLine = 64;
  std::byte* base_;
  int64_t used_ = 0;
};

}  // namespace jax_na
