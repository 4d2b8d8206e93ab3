// Runs the GEMM kernels, through the code that launches them, and compares with the definition.
//
//   gemm_test                      every case, in two element types
//   gemm_test NAME                 the cases whose names contain NAME, in every element type
//   gemm_test --random COUNT SEED  problems drawn at random
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/dispatch.h"
#include "cuda/emulation/tests/array.h"
#include "cuda/emulation/tests/cases.h"
#include "cuda/emulation/tests/run.h"
#include "cuda/emulation/tests/selection.h"
#include "cuda/gemm/gemm.h"
#include "cuda/gemm/instances.h"

namespace jax_na::emulation {
namespace {

std::string forward_in_workspace(const Forward& arguments) {
  Array<char> workspace(cuda::gemm_forward_workspace(arguments.problem));
  return cuda::gemm_forward(arguments, workspace.data(), nullptr);
}

const Implementation kGemm = {forward_in_workspace,
                              [](const Backward& b) { return cuda::gemm_backward(b, nullptr); },
                              cuda::gemm_backward_workspace};

// Chooses a device, or device 0 where some kernel needs more shared memory than it has.
template <typename T>
void set_device(int device, const Problem& problem, Precision precision) {
  cudaSetDevice(device % device_count());
  for (int features : {problem.head_dim, problem.value_dim}) {
    Problem of_product = problem;
    of_product.head_dim = of_product.value_dim = features;
    auto runs = [&](const std::vector<cuda::Instance>& instances, Pass pass) {
      return cuda::choose(instances, pass, of_product, precision).instance != nullptr;
    };
    if (!runs(cuda::scores_instances<T>(), Pass::kQueryGradient) ||
        !runs(cuda::combine_instances<T>(), Pass::kQueryGradient) ||
        !runs(cuda::inverse_instances<T>(), Pass::kKeyGradient))
      cudaSetDevice(0);
  }
}

template <typename T>
void run_gemm(int device, const Case& of, const Kind<T>& kind) {
  set_device<T>(device, of.problem, kind.precision);
  run(kGemm, of, kind);
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  for (int device = 0; device < device_count(); ++device) {
    cudaSetDevice(device);
    const std::string wrong = jax_na::cuda::load_gemm_kernels();
    if (!wrong.empty()) fail_case("loading the kernels", wrong);
  }
  const std::string mode = count > 1 ? arguments[1] : "";
  auto run_one = [](int device, const Case& of, const auto& kind) { run_gemm(device, of, kind); };
  if (mode == "--random" && count == 4)
    run_random_cases_in_types(std::atoi(arguments[2]), std::atoi(arguments[3]), run_one);
  else
    run_cases_in_types(mode, run_one);
  return report_failures();
}
