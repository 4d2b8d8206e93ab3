// Runs an implementation of attention on a problem and compares with the definition.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/emulation/tests/array.h"
#include "cuda/emulation/tests/cases.h"
#include "cuda/emulation/tests/reference.h"
#include "cuda/launch.h"

namespace jax_na::emulation {

using cuda::Backward;
using cuda::Forward;
using cuda::Precision;

inline int failures = 0;

// Emulated devices, or GPUs.
inline int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

inline void fail_case(const std::string& name, const std::string& how) {
  std::printf("FAILED %s: %s\n", name.c_str(), how.c_str());
  ++failures;
}

// The exit status of the program.
inline int report_failures() {
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

// What is under test. A launch returns an empty text, or what is wrong.
struct Implementation {
  std::function<std::string(const Forward&)> forward;
  std::function<std::string(const Backward&)> backward;  // may be none
  std::function<int64_t(const Problem&, Stored)> workspace;
};

// An element type and a precision, with the error that its roundings may make of the largest
// element of a result.
template <typename T>
struct Kind {
  const char* name;
  Stored stored;
  Precision precision;
  double tolerance;
};
inline constexpr Kind<__nv_bfloat16> kBFloat16 = {"bfloat16", Stored::kBFloat16,
                                                  Precision::kDefault, 1.5e-2};
inline constexpr Kind<__half> kFloat16 = {"float16", Stored::kFloat16, Precision::kDefault, 4e-3};
inline constexpr Kind<float> kFloat32 = {"float32", Stored::kFloat32, Precision::kDefault, 4e-3};
// Tensor cores cut off what an addition shifts out, up to 2^-23 of the sum and always towards zero,
// so that these errors add up. The products of 8 features are added in three parts: of 256 features
// that is 96 times 2^-24 in the mean, 5.7e-6. Measured on an H100 (2026-11-21): 3.6e-6 at most.
inline constexpr Kind<float> kHighest = {"float32, highest", Stored::kFloat32, Precision::kHighest,
                                         6e-6};

// No tensor is judged by less.
constexpr double kLeast = 0.1;

// Errors of one problem, in terms of each tensor's largest element.
class Comparison {
 public:
  Comparison(const std::string& name, double tolerance) : name_(name), tolerance_(tolerance) {}

  // `least` is what the tensor is judged by where no element is larger.
  void compare(const char* tensor, const std::vector<double>& got,
               const std::vector<double>& expected, double least = kLeast) {
    double largest = least, error = 0;
    for (double value : expected)
      if (std::isfinite(value)) largest = std::fmax(largest, std::fabs(value));
    for (size_t i = 0; i < got.size(); ++i) {
      hash_ = (hash_ ^ std::hash<double>()(got[i])) * 0x100000001b3;
      if (std::isinf(expected[i]) && got[i] == expected[i]) continue;
      const double off = std::fabs(got[i] - expected[i]) / largest;
      error = std::isfinite(off) ? std::fmax(error, off) : INFINITY;
    }
    worst_ = std::fmax(worst_, error);
    if (error <= tolerance_) return;
    char text[128];
    std::snprintf(text, sizeof text, "%s is off by %.2g of its largest element", tensor, error);
    fail_case(name_, text);
  }
  // Of all results so far.
  uint64_t hash() const { return hash_; }

  void report() const {
    int device = 0;
    cudaGetDevice(&device);
    std::printf("%-52s %.1e, device %d\n", name_.c_str(), worst_, device);
  }

 private:
  std::string name_;
  double tolerance_;
  double worst_ = 0;
  uint64_t hash_ = 0;
};

// Returns a hash of all results.
template <typename T>
uint64_t run(const Implementation& implementation, const Case& of, const Kind<T>& kind) {
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const Problem& problem = of.problem;
  const std::string name = of.name + " (" + kind.name + ")";
  const int64_t queries = problem.batch * problem.query_tokens() * problem.heads;
  const int64_t keys = problem.batch * problem.key_tokens() * problem.kv_heads;
  const int64_t additional = problem.batch * problem.additional * problem.kv_heads;
  const int64_t head_bias = problem.bias_batch > 0 ? problem.heads * problem.bias_size() : 0;
  Array<T> query(queries * problem.head_dim), key(keys * problem.head_dim),
      value(keys * problem.value_dim), additional_keys(additional * problem.head_dim),
      additional_values(additional * problem.value_dim), dout(queries * problem.value_dim);
  Array<Real> bias(problem.bias_batch * head_bias), dlse(queries);
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
  std::vector<int32_t> places(2 * kMaxRank);
  Problem unplaced = problem;
  for (int a = 0; a < kMaxRank; ++a) {
    int* place = &places[a];
    for (int origin : {problem.axes[a].query_origin, problem.axes[a].key_origin}) {
      *place = !of.astray ? origin : origin > 0 ? INT32_MAX : INT32_MIN;
      place += kMaxRank;
    }
    unplaced.axes[a].query_origin = unplaced.axes[a].key_origin = 0;
  }
  origins.fill(places);
  Array<T> out(queries * problem.value_dim);
  Array<Real> lse(queries);
  out.poison();
  lse.poison();
  Forward forward{};
  forward.problem = unplaced;
  forward.stored = kind.stored;
  forward.precision = kind.precision;
  forward.query = query.data();
  forward.key = key.data();
  forward.value = value.data();
  forward.additional_keys = additional_keys.data();
  forward.additional_values = additional_values.data();
  forward.bias = bias.data();
  forward.origins = origins.data();
  forward.out = out.data();
  forward.lse = lse.data();
  std::string wrong = implementation.forward(forward);
  if (!wrong.empty()) return fail_case(name, wrong), 0;
  Comparison comparison(name, kind.tolerance);
  comparison.compare("out", out.values(), expected.out);
  comparison.compare("lse", lse.values(), expected.lse);

  if (implementation.backward == nullptr) return comparison.report(), comparison.hash();

  Array<T> dquery(queries * problem.head_dim), dkey(keys * problem.head_dim),
      dvalue(keys * problem.value_dim), dadditional_keys(additional * problem.head_dim),
      dadditional_values(additional * problem.value_dim);
  Array<Real> dbias(problem.batch * head_bias);
  for (Array<T>* result : {&dquery, &dkey, &dvalue, &dadditional_keys, &dadditional_values})
    result->poison();
  dbias.poison();
  Array<char> workspace(implementation.workspace(unplaced, kind.stored));
  Backward backward{};
  backward.problem = unplaced;
  backward.stored = kind.stored;
  backward.precision = kind.precision;
  backward.query = query.data();
  backward.key = key.data();
  backward.value = value.data();
  backward.additional_keys = additional_keys.data();
  backward.additional_values = additional_values.data();
  backward.bias = bias.data();
  backward.origins = origins.data();
  backward.out = out.data();
  backward.lse = lse.data();
  backward.dout = dout.data();
  backward.dlse = dlse.data();
  backward.dquery = dquery.data();
  backward.dkey = dkey.data();
  backward.dvalue = dvalue.data();
  backward.dadditional_keys = dadditional_keys.data();
  backward.dadditional_values = dadditional_values.data();
  backward.dbias = dbias.data();
  backward.workspace = workspace.data();
  wrong = implementation.backward(backward);
  if (!wrong.empty()) return fail_case(name, wrong), 0;
  // A gradient of a score is a difference of two products of value_dim features, the largest of
  // which are three standard deviations. Where a query sees one key alone nothing is left of them
  // but the rounding of one.
  const double score = 3 * std::sqrt(double(problem.value_dim));
  const double scaled = std::fmax(kLeast, std::fabs(problem.scale) * score);
  comparison.compare("dquery", dquery.values(), expected.dquery, scaled);
  comparison.compare("dkey", dkey.values(), expected.dkey, scaled);
  comparison.compare("dvalue", dvalue.values(), expected.dvalue);
  comparison.compare("dadditional_keys", dadditional_keys.values(), expected.dadditional_keys,
                     scaled);
  comparison.compare("dadditional_values", dadditional_values.values(),
                     expected.dadditional_values);
  comparison.compare("dbias", dbias.values(), expected.dbias, score);
  comparison.report();
  return comparison.hash();
}

}  // namespace jax_na::emulation
