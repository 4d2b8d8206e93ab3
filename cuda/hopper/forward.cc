#include "cuda/hopper/forward.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/hopper/key.h"
#include "cuda/hopper/maps.h"

namespace jax_na::cuda {
namespace {

const std::vector<HopperInstance>& instances_of(Stored stored) {
  static const std::vector<HopperInstance> none;
  switch (stored) {
    case Stored::kBFloat16:
      return hopper_instances<__nv_bfloat16>();
    case Stored::kFloat16:
      return hopper_instances<__half>();
    default:
      return none;
  }
}

// Whether the features of a head are fewer than those of the kernel.
bool heads_apart(const Problem& problem, const HopperInstance& instance) {
  return problem.head_dim != instance.limits.head_dim ||
         problem.value_dim != instance.limits.head_dim;
}

// The instances that run the problem, or none and why.
std::vector<const HopperInstance*> instances_for(const Problem& problem, Stored stored,
                                                 const Device& device, std::string& refusal) {
  std::vector<const HopperInstance*> found;  // of the smallest head dimension that will do
  if (!device.hopper()) {
    refusal = "the GPU is not of compute capability 9.0";
  } else if (stored != Stored::kBFloat16 && stored != Stored::kFloat16) {
    refusal = "the elements are neither bfloat16 nor float16";
  } else if (problem.bias_batch > 0) {
    refusal = "there is a relative position bias";
  } else {
    const int widest = std::max(problem.head_dim, problem.value_dim);
    for (const HopperInstance& instance : instances_of(stored)) {
      const int head_dim = instance.limits.head_dim;
      if (head_dim < widest) continue;
      if (!found.empty() && head_dim < found.front()->limits.head_dim) found.clear();
      if (found.empty() || head_dim == found.front()->limits.head_dim) found.push_back(&instance);
    }
    const Axis& z = problem.axes[0];
    const bool spare = problem.batch == 1 || (z.query_count == 1 && z.key_count == 1);
    if (found.empty() || problem.head_dim % 8 != 0 || problem.value_dim % 8 != 0) {
      refusal = "the head dimensions are not multiples of 8 up to 256";
    } else if (heads_apart(problem, *found.front()) && !spare) {
      refusal = "head dimensions that are not compiled need a batch or an axis of one";
    }
  }
  if (!refusal.empty()) found.clear();
  return found;
}

HopperChoice chosen(const Problem& problem, const HopperInstance& instance,
                    const HopperPlan& plan) {
  HopperChoice choice{&instance, plan, ""};
  choice.plan.heads_apart = heads_apart(problem, instance);
  return choice;
}

bool same_extents(const HopperPlan& a, const HopperPlan& b) {
  auto same = [](const int (&x)[kMaxRank], const int (&y)[kMaxRank]) {
    return std::equal(x, x + kMaxRank, y);
  };
  return same(a.rows, b.rows) && same(a.warpgroups, b.warpgroups) && same(a.columns, b.columns) &&
         same(a.phases, b.phases);
}

}  // namespace

std::vector<HopperChoice> rank_hopper(const Problem& problem, Stored stored, const Device& device,
                                      int most, std::string& refusal) {
  std::vector<HopperChoice> all;
  refusal.clear();
  for (const HopperInstance* instance : instances_for(problem, stored, device, refusal)) {
    for (const HopperPlan& plan :
         hopper_plans(problem, instance->limits, device.multiprocessors, most))
      all.push_back(chosen(problem, *instance, plan));
  }
  if (all.empty() && refusal.empty())
    refusal = "no boxes of the copy engine suit the window and its dilation";
  std::stable_sort(all.begin(), all.end(), [](const HopperChoice& a, const HopperChoice& b) {
    return a.plan.clocks < b.plan.clocks;
  });
  // A plan does not say which kernel it is for: that is the one that it is better for.
  std::vector<HopperChoice> choices;
  for (const HopperChoice& choice : all) {
    if (static_cast<int>(choices.size()) == most) break;
    if (std::none_of(choices.begin(), choices.end(), [&](const HopperChoice& other) {
          return same_extents(choice.plan, other.plan);
        }))
      choices.push_back(choice);
  }
  return choices;
}

HopperChoice choose_hopper(const Problem& problem, Stored stored, const Device& device) {
  return remembered(hopper_key(problem, stored, device), [&] {
    HopperChoice choice;
    const auto ranked = rank_hopper(problem, stored, device, 1, choice.refusal);
    return ranked.empty() ? choice : ranked.front();
  });
}

HopperChoice adopt_hopper(const Problem& problem, Stored stored, const Device& device,
                          const HopperPlan& plan) {
  const PlanKey key =
      hopper_key(problem, stored, device, plan.rows, plan.warpgroups, plan.columns, plan.phases);
  return remembered(key, [&] {
    HopperChoice best;
    for (const HopperInstance* instance : instances_for(problem, stored, device, best.refusal)) {
      HopperChoice choice = chosen(problem, *instance, plan);
      const std::string wrong =
          complete_hopper_plan(problem, instance->limits, device.multiprocessors, choice.plan);
      if (wrong.empty() && (best.instance == nullptr || choice.plan.clocks < best.plan.clocks))
        best = choice;
      else if (best.instance == nullptr && best.refusal.empty())
        best.refusal = wrong;
    }
    return best;
  });
}

std::string launch_hopper(const HopperChoice& choice, const Forward& arguments,
                          cudaStream_t stream) {
  if (choice.instance == nullptr)
    return "the Hopper kernels do not run this problem: " + choice.refusal;
  Device device;
  cudaError_t status = current_device(device);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  const HopperPlan& plan = choice.plan;
  HopperArguments to{};
  to.origins = arguments.origins;
  to.plan = plan;
  const int most_ctas = device.multiprocessors * choice.instance->limits.resident;
  for (int launch = 0; launch < plan.launches(); ++launch) {
    const int line = launch / plan.phases[2];
    const int phase[kMaxRank] = {line / plan.phases[1], line % plan.phases[1],
                                 launch % plan.phases[2]};
    to.problem = phase_of(arguments.problem, plan.phases, phase);
    const std::string wrong = encode_maps(arguments, phase, choice.instance->line_columns,
                                          choice.instance->out_columns, to);
    if (!wrong.empty()) return wrong + " (" + str(plan) + ")";
    void* parameters[] = {&to};
    status = cudaLaunchKernel(choice.instance->kernel,
                              dim3(static_cast<unsigned>(std::min(plan.items, most_ctas))),
                              dim3(static_cast<unsigned>(choice.instance->threads)), parameters,
                              static_cast<size_t>(choice.instance->shared_bytes), stream);
    if (status != cudaSuccess)
      return std::string("launching a Hopper kernel: ") + cudaGetErrorString(status) + " (" +
             str(plan) + ")";
  }
  return "";
}

std::string load_hopper() {
  Device device;
  cudaError_t status = current_device(device);
  if (status == cudaSuccess && !device.hopper()) return "";
  for (Stored stored : {Stored::kBFloat16, Stored::kFloat16}) {
    for (const HopperInstance& instance : instances_of(stored)) {
      if (status == cudaSuccess)
        status = cudaFuncSetAttribute(instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      instance.shared_bytes);
    }
  }
  if (status == cudaSuccess) return "";
  return std::string("loading a Hopper kernel: ") + cudaGetErrorString(status);
}

}  // namespace jax_na::cuda
