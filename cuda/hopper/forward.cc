#include "cuda/hopper/forward.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "cuda/hopper/maps.h"
#include "cuda/plan_key.h"

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

// The instance that runs the problem, or none and why.
HopperChoice instance_for(const Problem& problem, Stored stored, const Device& device) {
  HopperChoice choice;
  if (!device.hopper()) {
    choice.refusal = "the GPU is not of compute capability 9.0";
  } else if (stored != Stored::kBFloat16 && stored != Stored::kFloat16) {
    choice.refusal = "the elements are neither bfloat16 nor float16";
  } else if (problem.bias_batch > 0) {
    choice.refusal = "there is a relative position bias";
  } else {
    const int widest = std::max(problem.head_dim, problem.value_dim);
    const HopperInstance* found = nullptr;  // the smallest that will do
    for (const HopperInstance& instance : instances_of(stored))
      if (instance.limits.head_dim >= widest &&
          (found == nullptr || instance.limits.head_dim < found->limits.head_dim))
        found = &instance;
    const Axis& z = problem.axes[0];
    const bool spare = problem.batch == 1 || (z.query_count == 1 && z.key_count == 1);
    if (found == nullptr || problem.head_dim % 8 != 0 || problem.value_dim % 8 != 0) {
      choice.refusal = "the head dimensions are not multiples of 8 up to 256";
    } else if (heads_apart(problem, *found) && !spare) {
      choice.refusal = "head dimensions that are not compiled need a batch or an axis of one";
    } else {
      choice.instance = found;
    }
  }
  return choice;
}

std::string key_of(const Problem& problem, Stored stored, const Device& device) {
  std::string key = problem_key(problem);
  add_to_key(key, stored);
  add_to_key(key, device.multiprocessors);
  add_to_key(key, device.hopper());
  return key;
}

// What `find` says, asked once for every key.
template <typename Find>
HopperChoice remembered(const std::string& key, Find find) {
  static std::mutex mutex;
  static std::map<std::string, HopperChoice> known;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, find()).first;
  return found->second;
}

}  // namespace

std::vector<HopperChoice> rank_hopper(const Problem& problem, Stored stored, const Device& device,
                                      int most, std::string& refusal) {
  HopperChoice choice = instance_for(problem, stored, device);
  refusal = choice.refusal;
  std::vector<HopperChoice> choices;
  if (choice.instance == nullptr) return choices;
  for (const HopperPlan& plan :
       hopper_plans(problem, choice.instance->limits, device.multiprocessors, most)) {
    choice.plan = plan;
    choice.plan.heads_apart = heads_apart(problem, *choice.instance);
    choices.push_back(choice);
  }
  if (choices.empty()) refusal = "no boxes of the copy engine suit the window and its dilation";
  return choices;
}

HopperChoice choose_hopper(const Problem& problem, Stored stored, const Device& device) {
  return remembered(key_of(problem, stored, device), [&] {
    HopperChoice choice;
    const auto ranked = rank_hopper(problem, stored, device, 1, choice.refusal);
    return ranked.empty() ? choice : ranked.front();
  });
}

HopperChoice adopt_hopper(const Problem& problem, Stored stored, const Device& device,
                          const HopperPlan& plan) {
  std::string key = key_of(problem, stored, device);
  for (const auto* extents : {&plan.rows, &plan.warpgroups, &plan.keys, &plan.phases})
    key.append(reinterpret_cast<const char*>(extents), sizeof *extents);
  return remembered(key, [&] {
    HopperChoice choice = instance_for(problem, stored, device);
    if (choice.instance == nullptr) return choice;
    choice.plan = plan;
    choice.plan.heads_apart = heads_apart(problem, *choice.instance);
    choice.refusal =
        complete_hopper_plan(problem, choice.instance->limits, device.multiprocessors, choice.plan);
    if (!choice.refusal.empty()) choice.instance = nullptr;
    return choice;
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
  for (int launch = 0; launch < plan.launches(); ++launch) {
    const int line = launch / plan.phases[2];
    const int phase[kMaxRank] = {line / plan.phases[1], line % plan.phases[1],
                                 launch % plan.phases[2]};
    to.problem = phase_of(arguments.problem, plan.phases, phase);
    const std::string wrong = encode_maps(arguments, phase, choice.instance->out_columns, to);
    if (!wrong.empty()) return wrong + " (" + str(plan) + ")";
    void* parameters[] = {&to};
    status =
        cudaLaunchKernel(choice.instance->kernel,
                         dim3(static_cast<unsigned>(std::min(plan.items, device.multiprocessors))),
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
