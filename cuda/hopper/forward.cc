#include "cuda/hopper/forward.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "cuda/hopper/device.h"
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

HopperChoice search(const Problem& problem, Stored stored, const HopperDevice& device) {
  HopperChoice choice;
  if (!device.hopper) {
    choice.refusal = "the GPU is not of compute capability 9.0";
  } else if (stored != Stored::kBFloat16 && stored != Stored::kFloat16) {
    choice.refusal = "the elements are neither bfloat16 nor float16";
  } else if (problem.bias_batch > 0) {
    choice.refusal = "there is a relative position bias";
  } else if (problem.head_dim != problem.value_dim) {
    choice.refusal = "head_dim of keys and values differ";
  } else {
    choice.refusal = "head_dim " + std::to_string(problem.head_dim) + " is not compiled";
    for (const HopperInstance& instance : instances_of(stored)) {
      if (instance.limits.head_dim != problem.head_dim) continue;
      HopperPlan plan;
      if (make_hopper_plan(problem, instance.limits, device.multiprocessors, plan)) {
        if (choice.instance == nullptr || plan.clocks < choice.plan.clocks) {
          choice.instance = &instance;
          choice.plan = plan;
        }
      } else if (choice.instance == nullptr) {
        choice.refusal = "no boxes of the copy engine suit the window";
      }
    }
    if (choice.instance != nullptr) choice.refusal.clear();
  }
  return choice;
}

}  // namespace

HopperChoice choose_hopper(const Problem& problem, Stored stored) {
  static std::mutex mutex;
  static std::map<std::string, HopperChoice> known;
  HopperDevice device;
  const cudaError_t status = current_hopper_device(device);
  if (status != cudaSuccess) {
    HopperChoice choice;
    choice.refusal = cudaGetErrorString(status);
    return choice;
  }
  const std::string key = hopper_key(problem, stored, device);
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, search(problem, stored, device)).first;
  return found->second;
}

std::string launch_hopper(const HopperChoice& choice, const Forward& arguments,
                          cudaStream_t stream) {
  if (choice.instance == nullptr)
    return "the Hopper kernels do not run this problem: " + choice.refusal;
  HopperDevice device;
  cudaError_t status = current_hopper_device(device);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  HopperArguments to{};
  to.problem = arguments.problem;
  to.origins = arguments.origins;
  to.lse = static_cast<float*>(arguments.lse);
  to.plan = choice.plan;
  const std::string wrong = encode_maps(arguments, choice.instance->out_columns, to);
  if (!wrong.empty()) return wrong + " (" + str(choice.plan) + ")";
  void* parameters[] = {&to};
  status = cudaLaunchKernel(
      choice.instance->kernel,
      dim3(static_cast<unsigned>(std::min(choice.plan.items, device.multiprocessors))),
      dim3(static_cast<unsigned>(choice.instance->threads)), parameters,
      static_cast<size_t>(choice.instance->shared_bytes), stream);
  if (status != cudaSuccess)
    return std::string("launching a Hopper kernel: ") + cudaGetErrorString(status) + " (" +
           str(choice.plan) + ")";
  return "";
}

std::string hopper_forward(const Forward& arguments, cudaStream_t stream) {
  return launch_hopper(choose_hopper(arguments.problem, arguments.stored), arguments, stream);
}

std::string load_hopper() {
  HopperDevice device;
  cudaError_t status = current_hopper_device(device);
  if (status == cudaSuccess && !device.hopper) return "";
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
