// Arrays in device memory, emulated or real.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace jax_na::emulation {

// Ends the program: after an error of a GPU there is nothing more to find out.
inline void expect_success(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  std::printf("FAILED %s: %s\n", doing, cudaGetErrorString(status));
  std::exit(1);
}

// Poisoned by the emulation where it is not filled.
template <typename T>
class Array {
 public:
  explicit Array(int64_t count) : count_(count) {
    expect_success(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(T)), "allocating");
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  // NaN everywhere, as it is in the emulation in any case. Results begin so on a GPU, too:
  // compute-sanitizer does not see that the copy engine writes them.
  void poison() {
    expect_success(cudaMemsetAsync(data_, 0xff, count_ * sizeof(T), nullptr), "poisoning");
  }

  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }  // in emulated memory alone

  void fill(const std::vector<T>& with) {
    expect_success(cudaMemcpy(data_, with.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
                   "copying to the device");
  }

  // Fills it with numbers of a normal distribution; returns them as the type rounds them.
  std::vector<double> draw(std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<T> drawn;
    for (int64_t i = 0; i < count_; ++i) drawn.push_back(T(normal(random)));
    fill(drawn);
    return widened(drawn);
  }
  std::vector<double> values() const {
    std::vector<T> all(count_);
    expect_success(cudaMemcpy(all.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
                   "running a kernel, or copying from the device");
    return widened(all);
  }

 private:
  static std::vector<double> widened(const std::vector<T>& all) {
    std::vector<double> wide;
    for (T value : all) wide.push_back(static_cast<double>(value));
    return wide;
  }

  int64_t count_;
  T* data_ = nullptr;
};

}  // namespace jax_na::emulation
