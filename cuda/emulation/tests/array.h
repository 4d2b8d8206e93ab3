// Arrays in emulated device memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <random>
#include <vector>

namespace jax_na::emulation {

// Poisoned where it is not filled.
template <typename T>
class Array {
 public:
  explicit Array(int64_t count) : count_(count) {
    cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(T));
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

  // Fills it with numbers of a normal distribution; returns them as the type rounds them.
  std::vector<double> draw(std::mt19937& random) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count_; ++i) data_[i] = T(normal(random));
    return values();
  }
  std::vector<double> values() const {
    std::vector<double> all(count_);
    for (int64_t i = 0; i < count_; ++i) all[i] = static_cast<double>(data_[i]);
    return all;
  }

 private:
  int64_t count_;
  T* data_ = nullptr;
};

}  // namespace jax_na::emulation
