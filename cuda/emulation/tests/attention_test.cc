// Runs the attention kernels, through the code that launches them, and compares with the
// definition.
//
//   attention_test                      every case, in every element type
//   attention_test NAME                 the cases whose names contain NAME
//   attention_test --instances          every compiled fused kernel, whatever the planner prefers
//   attention_test --random COUNT SEED  problems drawn at random
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/dispatch.h"
#include "cuda/emulation/block.h"
#include "cuda/emulation/device.h"
#include "cuda/emulation/tests/array.h"
#include "cuda/emulation/tests/cases.h"
#include "cuda/emulation/tests/reference.h"
#include "cuda/launch.h"

namespace jax_na::emulation {
namespace {

using cuda::Backward;
using cuda::Forward;
using cuda::Precision;

int failures = 0;

void fail_case(const std::string& name, const std::string& how) {
  std::printf("FAILED %s: %s\n", name.c_str(), how.c_str());
  ++failures;
}

// What is under test. A launch returns an empty text, or what is wrong.
struct Implementation {
  std::function<std::string(const Forward&)> forward;
  std::function<std::string(const Backward&)> backward;
  int64_t (*workspace)(const Problem&);
};

const Implementation kFused = {[](const Forward& f) { return cuda::fused_forward(f, nullptr); },
                               [](const Backward& b) { return cuda::fused_backward(b, nullptr); },
                               cuda::fused_backward_workspace};

// An element type and a precision, with the error that its roundings may make of the largest
// element of a result.
template <typename T>
struct Kind {
  const char* name;
  Stored stored;
  Precision precision;
  double tolerance;
};
constexpr Kind<__nv_bfloat16> kBFloat16 = {"bfloat16", Stored::kBFloat16, Precision::kDefault,
                                           1.5e-2};
constexpr Kind<__half> kFloat16 = {"float16", Stored::kFloat16, Precision::kDefault, 4e-3};
constexpr Kind<float> kFloat32 = {"float32", Stored::kFloat32, Precision::kDefault, 4e-3};
constexpr Kind<float> kHighest = {"float32, highest", Stored::kFloat32, Precision::kHighest, 3e-6};

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
    char text[128];
    std::snprintf(text, sizeof text, "%s is off by %.2g of its largest element", tensor, error);
    fail_case(name_, text);
  }
  double worst() const { return worst_; }

 private:
  std::string name_;
  double tolerance_;
  double worst_ = 0;
};

template <typename T>
void run(const Implementation& implementation, const Case& of, const Kind<T>& kind) {
  const Problem& problem = of.problem;
  const std::string name = of.name + " (" + kind.name + ")";
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
    origins[a] = problem.axes[a].query_origin;
    origins[kMaxRank + a] = problem.axes[a].key_origin;
    unplaced.axes[a].query_origin = unplaced.axes[a].key_origin = 0;
  }
  Array<T> out(queries * problem.value_dim);
  Array<float> lse(queries);
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
  if (!wrong.empty()) return fail_case(name, wrong);
  Comparison comparison(name, kind.tolerance);
  comparison.compare("out", out.values(), expected.out);
  comparison.compare("lse", lse.values(), expected.lse);

  Array<T> dquery(queries * problem.head_dim), dkey(keys * problem.head_dim),
      dvalue(keys * problem.value_dim), dadditional_keys(additional * problem.head_dim),
      dadditional_values(additional * problem.value_dim);
  Array<float> dbias(problem.batch * head_bias);
  Array<char> workspace(implementation.workspace(unplaced));
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
  if (!wrong.empty()) return fail_case(name, wrong);
  comparison.compare("dquery", dquery.values(), expected.dquery);
  comparison.compare("dkey", dkey.values(), expected.dkey);
  comparison.compare("dvalue", dvalue.values(), expected.dvalue);
  comparison.compare("dadditional_keys", dadditional_keys.values(), expected.dadditional_keys);
  comparison.compare("dadditional_values", dadditional_values.values(),
                     expected.dadditional_values);
  comparison.compare("dbias", dbias.values(), expected.dbias);
  int device = 0;
  cudaGetDevice(&device);
  std::printf("%-52s %.1e, device %d\n", name.c_str(), comparison.worst(), device);
}

// Chooses a device, or device 0 where some fused kernel needs more shared memory than it has.
void set_device(int device, const Problem& problem, Stored stored, Precision precision) {
  cudaSetDevice(device);
  for (Pass pass : {Pass::kForward, Pass::kQueryGradient, Pass::kKeyGradient})
    if (cuda::choose(cuda::instances_of(pass, stored), pass, problem, precision).instance ==
        nullptr)
      cudaSetDevice(0);
}

template <typename T>
void run_fused(int device, const Case& of, const Kind<T>& kind) {
  set_device(device % static_cast<int>(std::size(kDevices)), of.problem, kind.stored,
             kind.precision);
  run(kFused, of, kind);
}

// Every type meets every device in turn.
void run_cases(const std::string& part_of_name) {
  int device = 0;
  for (const Case& of : cases()) {
    if (of.name.find(part_of_name) == std::string::npos) continue;
    run_fused(device++, of, kBFloat16);
    run_fused(device++, of, kFloat16);
    run_fused(device++, of, kFloat32);
    run_fused(device++, of, kHighest);
  }
}

void run_random_cases(int count, int first) {
  for (int seed = first; seed < first + count; ++seed) {
    const Case of = random_case(seed);
    set_seed(seed);
    const int device = seed / 4;
    switch (seed % 4) {
      case 0:
        run_fused(device, of, kBFloat16);
        break;
      case 1:
        run_fused(device, of, kFloat16);
        break;
      case 2:
        run_fused(device, of, kFloat32);
        break;
      default:
        run_fused(device, of, kHighest);
    }
  }
}

// The kernels of a pass, each as a table of its own. Plans are remembered by their table, which
// therefore has to stay.
std::vector<const std::vector<cuda::Instance>*> single_instances(Pass pass, Stored stored) {
  static std::deque<std::vector<cuda::Instance>> tables;
  std::vector<const std::vector<cuda::Instance>*> all;
  for (const cuda::Instance& instance : cuda::instances_of(pass, stored))
    all.push_back(&tables.emplace_back(1, instance));
  return all;
}

// Runs all fused kernels that have this type and precision: the i-th of the forward pass together
// with the i-th of both gradients, of one head dimension.
template <typename T>
void run_instances(const Kind<T>& kind) {
  cudaSetDevice(0);
  const auto forwards = single_instances(Pass::kForward, kind.stored);
  const auto query_gradients = single_instances(Pass::kQueryGradient, kind.stored);
  const auto key_gradients = single_instances(Pass::kKeyGradient, kind.stored);
  auto of_head_dim = [&](const auto& tables, int head_dim) {
    auto found = tables;
    found.clear();
    for (const auto* table : tables)
      if (table->front().precision == kind.precision && table->front().limits.head_dim == head_dim)
        found.push_back(table);
    return found;
  };
  for (int head_dim = 8; head_dim <= 256; head_dim += 8) {
    const auto forward = of_head_dim(forwards, head_dim);
    const auto query_gradient = of_head_dim(query_gradients, head_dim);
    const auto key_gradient = of_head_dim(key_gradients, head_dim);
    const size_t most = std::max({forward.size(), query_gradient.size(), key_gradient.size()});
    for (size_t i = 0; i < most; ++i) {
      if (forward.empty() || query_gradient.empty() || key_gradient.empty())
        return fail_case(kind.name, "a pass lacks head_dim " + std::to_string(head_dim));
      auto dispatch = [&](const auto& tables, Pass pass, const auto& arguments) {
        return cuda::dispatch(*tables[std::min(i, tables.size() - 1)], pass, arguments.problem,
                              arguments.precision, &arguments, nullptr);
      };
      const Implementation one = {
          [&](const Forward& f) { return dispatch(forward, Pass::kForward, f); },
          [&](const Backward& b) {
            const std::string wrong = dispatch(query_gradient, Pass::kQueryGradient, b);
            return wrong.empty() ? dispatch(key_gradient, Pass::kKeyGradient, b) : wrong;
          },
          cuda::fused_backward_workspace};
      for (const Case& of : cases_of_head_dim(head_dim)) run(one, of, kind);
    }
  }
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  for (int device = 0; device < static_cast<int>(std::size(kDevices)); ++device) {
    cudaSetDevice(device);
    const std::string wrong = jax_na::cuda::load_kernels();
    if (!wrong.empty()) fail_case("loading the kernels", wrong);
  }
  const std::string mode = count > 1 ? arguments[1] : "";
  if (mode == "--random" && count == 4) {
    run_random_cases(std::atoi(arguments[2]), std::atoi(arguments[3]));
  } else if (mode == "--instances") {
    run_instances(kBFloat16);
    run_instances(kFloat16);
    run_instances(kFloat32);
    run_instances(kHighest);
  } else {
    run_cases(mode);
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
