// Runs the backward pass of the Hopper kernels, through the code that launches them, and compares
// with the definition. Problems that they refuse are left out.
//
//   hopper_backward_test                      every case, with every head dimension in turn, and
//                                             pairs of tiles
//   hopper_backward_test NAME                 the cases whose names contain NAME
//   hopper_backward_test --random COUNT SEED  problems drawn at random
#include <cmath>
#include <iterator>
#include <string>

#include "cuda/emulation/tests/run.h"
#include "cuda/emulation/tests/selection.h"
#include "cuda/hopper/backward/backward.h"
#include "cuda/hopper/backward/boxes.h"
#include "cuda/hopper/backward/pairs.h"
#include "cuda/hopper/query_gradient/query_gradient.h"
#include "cuda/launch.h"

namespace jax_na::emulation {
namespace {

int number = 0;  // of problems run

cuda::HopperBackwardChoice choice_of(const Problem& problem, Stored stored) {
  cuda::Device device;
  cuda::current_device(device);
  return cuda::choose_hopper_backward(problem, stored, device);
}

cuda::HopperBackwardChoice pair_of(const Problem& problem, Stored stored) {
  cuda::Device device;
  cuda::current_device(device);
  return cuda::choose_hopper_pair(problem, stored, device);
}

const Implementation kSums = {[](const Forward& f) { return cuda::fused_forward(f, nullptr); },
                              [](const Backward& b) {
                                cuda::HopperBackwardChoice choice = choice_of(b.problem, b.stored);
                                choice.plan.beyond_cache =
                                    number % 2 == 0;  // which no small problem is
                                return cuda::launch_hopper_backward(choice, b, nullptr);
                              },
                              cuda::hopper_backward_workspace};

// With every kernel for the gradient of the queries in turn, whichever is the best one.
const Implementation kPair = {
    [](const Forward& f) { return cuda::fused_forward(f, nullptr); },
    [](const Backward& b) {
      cuda::Device device;
      cuda::current_device(device);
      cuda::HopperBackwardChoice choice = pair_of(b.problem, b.stored);
      choice.plan.beyond_cache = number % 2 == 0;
      int met = 0;
      for (const auto& instance : cuda::hopper_query_gradient_instances(b.stored)) {
        if (instance.limits.head_dim != b.problem.head_dim || met++ % 2 != number / 4 % 2) continue;
        const auto plans =
            cuda::hopper_plans(b.problem, instance.limits, device.multiprocessors, 1);
        if (!plans.empty()) choice.queries = {&instance, plans.front(), ""};
      }
      return cuda::launch_hopper_backward(choice, b, nullptr);
    },
    cuda::hopper_pair_workspace};

// What is in memory of boxes of keys fits the place that a workspace has for it.
void check_boxes(const Case& of, const cuda::HopperBackwardPlan& plan) {
  int64_t words = 0;
  for (int a = 0; a < kMaxRank; ++a)
    words +=
        int64_t{cuda::KeyBoxes::of_axis(of.problem, plan, a)} * cuda::KeyBoxes::stride(plan, a);
  if (words * static_cast<int64_t>(sizeof(uint32_t)) > cuda::KeyBoxes::most_bytes(of.problem))
    fail_case(of.name, "boxes of keys are larger than their place");
}

void run_hopper(Case of) {
  constexpr int kHeadDims[] = {32, 64, 96, 128, 192, 256, 40, 8, 104, 72, 136, 200};
  const int head_dim = kHeadDims[number % std::size(kHeadDims)];
  of.problem.bias_batch = 0;
  of.problem.head_dim = of.problem.value_dim = head_dim;
  of.problem.scale =
      std::copysign(of.problem.scale == 0 ? 0 : std::sqrt(1.0 / head_dim), of.problem.scale);
  of.name += ", " + std::to_string(head_dim) + " features";
  // Where there are more than one: with a multiprocessor for every item, and with two.
  cudaSetDevice((number % 3 == 0 ? 0 : 3) % device_count());
  const bool half = number++ / std::size(kHeadDims) % 2 != 0;
  const std::string name = of.name;
  auto run_one = [&](const Implementation& implementation, const char* which) {
    of.name = name + which;
    if (half)
      run(implementation, of, kFloat16);
    else
      run(implementation, of, kBFloat16);
  };
  const Stored stored = half ? Stored::kFloat16 : Stored::kBFloat16;
  const auto sums = choice_of(of.problem, stored), pair = pair_of(of.problem, stored);
  if (sums.instance != nullptr) {
    check_boxes(of, sums.plan);
    run_one(kSums, ", sums");
  }
  if (pair.instance != nullptr) {
    check_boxes(of, pair.plan);
    run_one(kPair, ", a pair");
  }
}

// Lines of tiles of which each warpgroup has some to itself, in the kernel that has these in pairs.
void run_pairs() {
  for (const bool periodic : {false, true}) {
    Case of = cases().front();
    of.name = periodic ? "pairs of tiles, wrap" : "pairs of tiles";
    Axis& axis = of.problem.axes[kMaxRank - 1];
    axis.length = axis.query_count = axis.key_count = 512;
    axis.window = 33;
    axis.boundary = periodic ? Boundary::kWrap : Boundary::kShift;
    number = periodic ? 13 : 1;  // 64 features, of either type
    Problem problem = of.problem;
    problem.head_dim = problem.value_dim = 64;
    const auto choice = choice_of(problem, Stored::kBFloat16);
    cuda::AxisItem item{};
    const int second = choice.plan.box(kMaxRank - 1);
    cuda::make_axis_item<true>(item, problem.axes[kMaxRank - 1], choice.plan, kMaxRank - 1, 0,
                               second);
    if (choice.instance == nullptr || cuda::tile_pairs(item, choice.plan) == 0)
      fail_case(of.name, "there are none");
    run_hopper(of);
  }
  number = 0;
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  for (int device : {0, 3}) {
    cudaSetDevice(device % device_count());
    const std::string wrong = jax_na::cuda::load_kernels();
    if (!wrong.empty()) fail_case("loading the kernels", wrong);
  }
  if (count == 1) run_pairs();
  return run_chosen_cases(count, arguments, run_hopper);
}
