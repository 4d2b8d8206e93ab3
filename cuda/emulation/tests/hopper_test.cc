// Runs the Hopper kernels, through the code that launches them, and compares with the definition.
// Problems that they refuse are left out.
//
//   hopper_test                      every case, with every head dimension in turn
//   hopper_test NAME                 the cases whose names contain NAME
//   hopper_test --random COUNT SEED  problems drawn at random
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "cuda/emulation/tests/run.h"
#include "cuda/emulation/tests/selection.h"
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
  // Scores of some are so large that they outgrow what the softmax takes for their maxima.
  const bool large = number % 4 == 3;
  const double scale = large ? 2 : 1 / std::sqrt(static_cast<double>(head_dim));
  of.problem.scale = std::copysign(scale, of.problem.scale);
  if (large) of.name += ", large scores";
  of.name += ", " + std::to_string(head_dim) + " and " + std::to_string(value_dim) + " features";
  // With a CTA for every item, and with two multiprocessors, whose CTAs have several.
  cudaSetDevice((number % 3 == 0 ? 0 : 3) % device_count());
  cuda::Device device;
  cuda::current_device(device);
  const cuda::HopperChoice best = cuda::choose_hopper(of.problem, Stored::kBFloat16, device);
  if (best.instance == nullptr) return;
  const bool half = number / std::size(kFeatures) % 2 != 0;
  const int kept = number % 3;
  const bool small = number++ % 5 == 4;
  if (small) of.name += ", small boxes";
  // With every kernel of the head dimension, one of its plans, some with the best one.
  for (const cuda::HopperInstance& instance :
       half ? cuda::hopper_instances<__half>() : cuda::hopper_instances<__nv_bfloat16>()) {
    if (instance.limits.head_dim != best.instance->limits.head_dim) continue;
    const std::vector<cuda::HopperPlan> plans =
        cuda::hopper_plans(of.problem, instance.limits, device.multiprocessors, 40);
    if (plans.empty()) continue;
    cuda::HopperChoice choice{&instance, plans[kept * (plans.size() - 1) / 2], ""};
    choice.plan.heads_apart = best.plan.heads_apart;
    // One that the planner would not think of.
    if (small) {
      choice.plan.rows[2] = (choice.plan.rows[2] + 1) / 2;
      choice.plan.columns[2] = (choice.plan.columns[2] + 2) / 3;
    }
    Case with = of;
    with.name += ", " + std::to_string(instance.limits.resident) + " CTAs, " +
                 std::to_string(choice.plan.launches()) + " launches";
    std::string wrong = cuda::complete_hopper_plan(of.problem, instance.limits,
                                                   device.multiprocessors, choice.plan);
    if (wrong.empty())
      wrong = cuda::adopt_hopper(of.problem, Stored::kBFloat16, device, choice.plan).refusal;
    if (!wrong.empty()) fail_case(with.name, "the plan is refused: " + wrong);
    // A turn that may not be the best one.
    const int ctas = std::min(choice.plan.items, device.multiprocessors * instance.limits.resident);
    if (number % 2 == 0) choice.plan.turn = (number + 1) % ctas;
    const Implementation hopper = {
        [&](const Forward& f) { return cuda::launch_hopper(choice, f, nullptr); }, nullptr,
        nullptr};
    if (half)
      run(hopper, with, kFloat16);
    else
      run(hopper, with, kBFloat16);
  }
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  for (int device : {0, 3}) {
    cudaSetDevice(device % device_count());
    const std::string wrong = jax_na::cuda::load_hopper();
    if (!wrong.empty()) fail_case("loading the kernels", wrong);
  }
  return run_chosen_cases(count, arguments, run_hopper);
}
