// Runs the naive kernels, through the code that launches them, and compares with the definition.
//
//   naive_test       every case, in every element type
//   naive_test NAME  the cases whose names contain NAME
#include <iterator>
#include <string>

#include "cuda/emulation/tests/run.h"
#include "cuda/naive/naive.h"

namespace jax_na::emulation {
namespace {

constexpr Kind<float> kExact = {"float32", Stored::kFloat32, Precision::kDefault, 3e-6};
constexpr Kind<double> kFloat64 = {"float64", Stored::kFloat64, Precision::kDefault, 1e-12};

template <typename T>
void run_naive(const Case& of, const Kind<T>& kind) {
  const Implementation naive = {[](const Forward& f) { return cuda::naive_forward(f, nullptr); },
                                [](const Backward& b) { return cuda::naive_backward(b, nullptr); },
                                cuda::naive_backward_workspace};
  run(naive, of, kind);
}

// Every other case with rows that begin at no multiple of 16 bytes: of one lane and of several.
void run_cases(const std::string& part_of_name) {
  constexpr int kUneven[][2] = {{1, 3}, {7, 12}, {13, 5}, {37, 19}, {66, 70}};
  int number = 0;
  for (const Case& of : cases()) {
    ++number;
    if (of.name.find(part_of_name) == std::string::npos) continue;
    Case uneven = of;
    uneven.problem.head_dim = kUneven[number % std::size(kUneven)][0];
    uneven.problem.value_dim = kUneven[number % std::size(kUneven)][1];
    run_naive(number % 2 == 0 ? uneven : of, kExact);
    run_naive(number % 2 == 1 ? uneven : of, kFloat64);
    run_naive(number % 4 == 0 ? uneven : of, kBFloat16);
    run_naive(number % 4 == 2 ? uneven : of, kFloat16);
  }
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  const std::string wrong = jax_na::cuda::load_naive_kernels();
  if (!wrong.empty()) fail_case("loading the kernels", wrong);
  run_cases(count > 1 ? arguments[1] : "");
  return report_failures();
}
