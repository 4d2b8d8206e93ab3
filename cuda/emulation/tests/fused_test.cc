// Runs the fused kernels, through the code that launches them, and compares with the definition.
// With an argument, only the cases whose names contain it.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/dispatch.h"
#include "cuda/emulation/device.h"
#include "cuda/emulation/tests/cases.h"
#include "cuda/emulation/tests/reference.h"
#include "cuda/launch.h"

namespace jax_na::emulation {
namespace {

using cuda::Backward;
using cuda::Forward;
using cuda::Precision;

int failures = 0;

// Device memory, poisoned where it is not filled.
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
  // Numbers of a normal distribution, as the type rounds them.
  std::vector<double> draw(std::mt19937& random) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count_; ++i) data_[i] = T(normal(random));
    return values();
  }
  std::vector<double> values() const {
    std::vector<double> all(count_);
    for (int64_t i = 0; i < count_; ++i) all[i] = static_cast<double>(static_cast<float>(data_[i]));
    return all;
  }

 private:
  int64_t count_;
  T* data_ = nullptr;
};

// Errors of one problem, in terms of each tensor's largest element.
class Comparison {
 public:
  Comparison(const std::string& name, double tolerance) : name_(name), tolerance_(tolerance) {}

  void compare(const char* tensor, const std::vector<double>& got,
               const std::vector<double>& expected) {
    double largest = 0.1, error = 0;  // no tensor is judged by less than 0.1
    for (double value : expected)
      if (std::isfinite(value)) largest = std::fmax(largest, std::fabs(value));
    for (size_t i = 0; i < got.size(); ++i) {
      if (std::isinf(expected[i]) && got[i] == expected[i]) continue;
      const double off = std::fabs(got[i] - expected[i]) / largest;
      error = std::isfinite(off) ? std::fmax(error, off) : INFINITY;
    }
    worst_ = std::fmax(worst_, error);
    if (error <= tolerance_) return;
    std::printf("FAILED %s: %s is off by %.2g of its largest element\n", name_.c_str(), tensor,
                error);
    ++failures;
  }
  double worst() const { return worst_; }

 private:
  std::string name_;
  double tolerance_;
  double worst_ = 0;
};

template <typename T>
constexpr Stored kStored = std::is_same_v<T, float>    ? Stored::kFloat32
                           : std::is_same_v<T, __half> ? Stored::kFloat16
                                                       : Stored::kBFloat16;

template <typename T>
void run(const Case& of, const char* type, Precision precision, double tolerance) {
  const Problem& problem = of.problem;
  const std::string name = of.name + " (" + type + ")";
  const int64_t queries = problem.batch * problem.query_tokens() * problem.heads;
  const int64_t keys = problem.batch * problem.key_tokens() * problem.kv_heads;
  const int64_t additional = problem.batch * problem.additional * problem.kv_heads;
  const int64_t head_bias = problem.bias_batch > 0 ? problem.heads * problem.bias_size() : 0;
  Array<T> query(queries * problem.head_dim), key(keys * problem.head_dim),
      value(keys * problem.value_dim), additional_keys(additional * problem.head_dim),
      additional_values(additional * problem.value_dim), dout(queries * problem.value_dim);
  Array<float> bias(problem.bias_batch * head_bias), dlse(queries);
  std::mt19937 random(1);
  Inputs inputs{problem,
                query.draw(random),
                key.draw(random),
                value.draw(random),
                additional_keys.draw(random),
                additional_values.draw(random),
                bias.draw(random),
                dout.draw(random),
                dlse.draw(random)};
  const Results expected = reference(inputs);

  // Kernels find the origins in a tensor.
  Array<int32_t> origins(2 * kMaxRank);
  Problem unplaced = problem;
  for (int a = 0; a < kMaxRank; ++a) {
    origins.data()[a] = problem.axes[a].query_origin;
    origins.data()[kMaxRank + a] = problem.axes[a].key_origin;
    unplaced.axes[a].query_origin = unplaced.axes[a].key_origin = 0;
  }
  Array<T> out(queries * problem.value_dim);
  Array<float> lse(queries);
  const Forward forward{unplaced,    kStored<T>,   precision,
                        query.data(), key.data(),   value.data(),
                        additional_keys.data(), additional_values.data(), bias.data(),
                        origins.data(), out.data(), lse.data()};
  std::string wrong = fused_forward(forward, nullptr);
  if (!wrong.empty()) {
    std::printf("FAILED %s: %s\n", name.c_str(), wrong.c_str());
    ++failures;
    return;
  }
  Comparison comparison(name, tolerance);
  comparison.compare("out", out.values(), expected.out);
  comparison.compare("lse", lse.values(), expected.lse);

  Array<T> dquery(queries * problem.head_dim), dkey(keys * problem.head_dim),
      dvalue(keys * problem.value_dim), dadditional_keys(additional * problem.head_dim),
      dadditional_values(additional * problem.value_dim);
  Array<float> dbias(problem.batch * head_bias);
  Array<char> workspace(cuda::fused_backward_workspace(unplaced));
  const Backward backward{unplaced,
                          kStored<T>,
                          precision,
                          query.data(),
                          key.data(),
                          value.data(),
                          additional_keys.data(),
                          additional_values.data(),
                          bias.data(),
                          origins.data(),
                          out.data(),
                          lse.data(),
                          dout.data(),
                          dlse.data(),
                          dquery.data(),
                          dkey.data(),
                          dvalue.data(),
                          dadditional_keys.data(),
                          dadditional_values.data(),
                          dbias.data(),
                          workspace.data()};
  wrong = fused_backward(backward, nullptr);
  if (!wrong.empty()) {
    std::printf("FAILED %s: %s\n", name.c_str(), wrong.c_str());
    ++failures;
    return;
  }
  comparison.compare("dquery", dquery.values(), expected.dquery);
  comparison.compare("dkey", dkey.values(), expected.dkey);
  comparison.compare("dvalue", dvalue.values(), expected.dvalue);
  comparison.compare("dadditional_keys", dadditional_keys.values(), expected.dadditional_keys);
  comparison.compare("dadditional_values", dadditional_values.values(),
                     expected.dadditional_values);
  comparison.compare("dbias", dbias.values(), expected.dbias);
  int device = 0;
  cudaGetDevice(&device);
  std::printf("%-45s %.1e, device %d\n", name.c_str(), comparison.worst(), device);
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  int device = 0;
  for (const Case& of : cases()) {
    if (count > 1 && of.name.find(arguments[1]) == std::string::npos) continue;
    // Every type meets every device in turn.
    auto next_device = [&] {
      cudaSetDevice(device);
      device = (device + 1) % static_cast<int>(std::size(kDevices));
      const std::string wrong = jax_na::cuda::load_kernels();
      if (!wrong.empty()) {
        std::printf("FAILED to load: %s\n", wrong.c_str());
        ++failures;
      }
    };
    next_device();
    run<__nv_bfloat16>(of, "bfloat16", Precision::kDefault, 2.5e-2);
    next_device();
    run<__half>(of, "float16", Precision::kDefault, 4e-3);
    next_device();
    run<float>(of, "float32", Precision::kDefault, 4e-3);
    next_device();
    run<float>(of, "float32, highest", Precision::kHighest, 2e-5);
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
