// Runs the attention kernels, through the code that launches them, and compares with the
// definition.
//
//   attention_test                      every case, in two element types
//   attention_test NAME                 the cases whose names contain NAME, in every element type
//   attention_test --orders             those with a bias, whether the order of warps matters
//   attention_test --instances          every compiled fused kernel, whatever the planner prefers
//   attention_test --random COUNT SEED  problems drawn at random
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <string>
#include <vector>

#include "cuda/dispatch.h"
#include "cuda/emulation/block.h"
#include "cuda/emulation/tests/cases.h"
#include "cuda/emulation/tests/run.h"
#include "cuda/emulation/tests/selection.h"
#include "cuda/launch.h"

namespace jax_na::emulation {
namespace {

const Implementation kFused = {
    [](const Forward& f) { return cuda::fused_forward(f, nullptr); },
    [](const Backward& b) { return cuda::fused_backward(b, true, nullptr); },
    [](const Problem& p, Stored stored) {
      return cuda::fused_backward_workspace(p, stored, true);
    }};

// Chooses a device, or device 0 where some fused kernel needs more shared memory than it has.
void set_device(int device, const Problem& problem, Stored stored, Precision precision) {
  cudaSetDevice(device);
  for (Pass pass : {Pass::kForward, Pass::kQueryGradient, Pass::kKeyGradient})
    if (cuda::choose(cuda::instances_of(pass, stored), pass, problem, precision).instance ==
        nullptr)
      cudaSetDevice(0);
}

template <typename T>
uint64_t run_fused(int device, const Case& of, const Kind<T>& kind) {
  set_device(device % device_count(), of.problem, kind.stored, kind.precision);
  return run(kFused, of, kind);
}

// Those with a bias, each in one type: its gradient is a sum that all warps add to.
void run_orders() {
  int number = 0;
  for (const Case& of : cases()) {
    if (of.problem.bias_batch == 0) continue;
    auto hash_of = [&](uint64_t seed) {
      set_seed(seed);
      return number % 2 == 0 ? run_fused(0, of, kBFloat16) : run_fused(0, of, kHighest);
    };
    if (hash_of(1) != hash_of(2)) fail_case(of.name, "results depend on the order of warps");
    ++number;
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
  for (Pass pass : {Pass::kForward, Pass::kQueryGradient, Pass::kKeyGradient}) {
    const std::string wrong = cuda::load(cuda::instances_of(pass, kind.stored));
    if (!wrong.empty()) return fail_case(kind.name, wrong);
  }
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
            if (!wrong.empty()) return wrong;
            Backward of_keys = b;  // delta, and behind it the LSE in units of log2
            const Problem& p = b.problem;
            of_keys.lse = static_cast<float*>(b.workspace) + p.batch * p.query_tokens() * p.heads;
            return dispatch(key_gradient, Pass::kKeyGradient, of_keys);
          },
          kFused.workspace};
      const std::vector<cuda::Instance>& table = *forward[std::min(i, forward.size() - 1)];
      auto runs = [&](const Case& of) {
        return cuda::choose(table, Pass::kForward, of.problem, kind.precision).instance != nullptr;
      };
      for (const Case& of : cases_of_head_dim(head_dim))
        if (runs(of) || !table.front().limits.one_tile) run(one, of, kind);
      if (i >= forward.size() || !table.front().limits.streams) continue;
      const Implementation forward_alone = {one.forward, nullptr, nullptr};
      for (const Case& of : cases_of_stages(head_dim)) run(forward_alone, of, kind);
      for (int seed = head_dim; seed < head_dim + 20; ++seed) {
        Case of = random_case(seed);
        of.problem.head_dim = head_dim;
        if (runs(of)) run(forward_alone, of, kind);
      }
    }
  }
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  const std::string mode = count > 1 ? arguments[1] : "";
  // Those of one architecture are no instances: --instances runs where only PTX is loaded, too.
  for (int device = 0; device < device_count(); ++device) {
    if (mode == "--instances") break;
    cudaSetDevice(device);
    const std::string wrong = jax_na::cuda::load_kernels();
    if (!wrong.empty()) fail_case("loading the kernels", wrong);
  }
  auto run_one = [](int device, const Case& of, const auto& kind) { run_fused(device, of, kind); };
  if (mode == "--random" && count == 4) {
    run_random_cases_in_types(std::atoi(arguments[2]), std::atoi(arguments[3]), run_one);
  } else if (mode == "--orders") {
    run_orders();
  } else if (mode == "--instances") {
    run_instances(kBFloat16);
    run_instances(kFloat16);
    run_instances(kFloat32);
    run_instances(kHighest);
  } else {
    run_cases_in_types(mode, run_one);
  }
  return report_failures();
}
