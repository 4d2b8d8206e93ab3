// Runs the Hopper kernels, through the code that launches them, and compares with the definition.
// Problems that they refuse are left out.
//
//   hopper_test                      every case, with every head dimension in turn
//   hopper_test NAME                 the cases whose names contain NAME
//   hopper_test --random COUNT SEED  problems drawn at random
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

#include "cuda/emulation/block.h"
#include "cuda/emulation/tests/run.h"
#include "cuda/hopper/forward.h"

namespace jax_na::emulation {
namespace {

int number = 0;  // of problems run

void run_hopper(Case of) {
  // Of keys and of values: those that are compiled, and some that need maps with heads apart.
  constexpr int kFeatures[][2] = {{32, 32},   {64, 64}, {96, 96}, {128, 128}, {192, 192},
                                  {256, 256}, {40, 40}, {72, 16}, {80, 160}};
  const auto [head_dim, value_dim] = kFeatures[number % std::size(kFeatures)];
  of.problem.bias_batch = 0;
  of.problem.head_dim = head_dim;
  of.problem.value_dim = value_dim;
  if (head_dim % 32 != 0) of.problem.batch = 1;
  of.problem.scale = std::copysign(1 / std::sqrt(static_cast<double>(head_dim)), of.problem.scale);
  of.name += ", " + std::to_string(head_dim) + " and " + std::to_string(value_dim) + " features";
  cuda::Device device;
  cuda::current_device(device);
  std::string refusal;
  // Some of the plans, the best one among them.
  std::vector<cuda::HopperChoice> choices =
      cuda::rank_hopper(of.problem, Stored::kBFloat16, device, 40, refusal);
  if (choices.empty()) return;
  cuda::HopperPlan plan = choices[number % 3 * (choices.size() - 1) / 2].plan;
  // One that the planner would not think of.
  if (number % 5 == 4) {
    plan.rows[2] = (plan.rows[2] + 1) / 2;
    plan.keys[2] = (plan.keys[2] + 2) / 3;
    of.name += ", small boxes";
  }
  of.name += ", " + std::to_string(plan.launches()) + " launches";
  const Implementation hopper = {[&](const Forward& f) {
                                   return cuda::launch_hopper(
                                       cuda::adopt_hopper(f.problem, f.stored, device, plan), f,
                                       nullptr);
                                 },
                                 nullptr, nullptr};
  if (number++ / std::size(kFeatures) % 2 == 0)
    run(hopper, of, kBFloat16);
  else
    run(hopper, of, kFloat16);
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  const std::string wrong = jax_na::cuda::load_hopper();
  if (!wrong.empty()) fail_case("loading the kernels", wrong);
  const std::string mode = count > 1 ? arguments[1] : "";
  if (mode == "--random" && count == 4) {
    const int first = std::atoi(arguments[3]);
    for (int seed = first; seed < first + std::atoi(arguments[2]); ++seed) {
      set_seed(static_cast<uint64_t>(seed));
      run_hopper(random_case(seed));
    }
  } else {
    for (const Case& of : cases())
      if (of.name.find(mode) != std::string::npos) run_hopper(of);
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
