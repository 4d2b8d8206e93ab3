#include "cuda/hopper/forward.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "cuda/hopper/maps.h"

namespace jax_na::cuda {
namespace {

struct Device {
  bool hopper = false;
  int multiprocessors = 0;
};

cudaError_t current_device(Device& device) {
  static std::mutex mutex;
  static std::map<int, Device> known;
  int ordinal = 0;
  cudaError_t status = cudaGetDevice(&ordinal);
  if (status != cudaSuccess) return status;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(ordinal);
  if (found == known.end()) {
    int major = 0, minor = 0;
    for (auto [attribute, to] :
         {std::pair{cudaDevAttrComputeCapabilityMajor, &major},
          std::pair{cudaDevAttrComputeCapabilityMinor, &minor},
          std::pair{cudaDevAttrMultiProcessorCount, &device.multiprocessors}}) {
      status = cudaDeviceGetAttribute(to, attribute, ordinal);
      if (status != cudaSuccess) return status;
    }
    device.hopper = major == 9 && minor == 0;
    found = known.emplace(ordinal, device).first;
  }
  device = found->second;
  return cudaSuccess;
}

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

HopperChoice search(const Problem& problem, Stored stored, const Device& device) {
  HopperChoice choice;
  if (!device.hopper) {
    choice.refusal = "the GPU is not of compute capability 9.0";
  } else if (stored != Stored::kBFloat16 && stored != Stored::kFloat16) {
    choice.refusal = "the elements are neither bfloat16 nor float16";
  } else if (problem.bias_batch > 0) {
    choice.refusal = "there is a relative position bias";
  } else {
    const int widest = std::max(problem.head_dim, problem.value_dim);
    int head_dim = 0;  // the smallest that will do
    for (const HopperInstance& instance : instances_of(stored))
      if (instance.limits.head_dim >= widest &&
          (head_dim == 0 || instance.limits.head_dim < head_dim))
        head_dim = instance.limits.head_dim;
    const bool exact = problem.head_dim == head_dim && problem.value_dim == head_dim;
    const Axis& z = problem.axes[0];
    const bool spare = problem.batch == 1 || (z.query_count == 1 && z.key_count == 1);
    if (head_dim == 0 || problem.head_dim % 8 != 0 || problem.value_dim % 8 != 0) {
      choice.refusal = "the head dimensions are not multiples of 8 up to 256";
    } else if (!exact && !spare) {
      choice.refusal = "head dimensions that are not compiled need a batch or an axis of one";
    } else {
      choice.refusal = "no boxes of the copy engine suit the window";
      for (const HopperInstance& instance : instances_of(stored)) {
        if (instance.limits.head_dim != head_dim) continue;
        HopperPlan plan;
        if (make_hopper_plan(problem, instance.limits, device.multiprocessors, plan) &&
            (choice.instance == nullptr || plan.clocks < choice.plan.clocks)) {
          plan.heads_apart = !exact;
          choice.instance = &instance;
          choice.plan = plan;
        }
      }
    }
    if (choice.instance != nullptr) choice.refusal.clear();
  }
  return choice;
}

// A problem as a key: everything but the scale, which no plan depends on.
std::string key_of(const Problem& problem, Stored stored, const Device& device) {
  std::string key;
  auto add = [&](const auto& value) {
    key.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  add(stored), add(device.multiprocessors), add(device.hopper), add(problem.batch);
  for (int value : {problem.heads, problem.kv_heads, problem.head_dim, problem.value_dim,
                    problem.additional, problem.bias_batch})
    add(value);
  for (const Axis& axis : problem.axes) {
    for (int value :
         {axis.length, axis.window, axis.stride, axis.dilation, axis.query_count, axis.key_count,
          static_cast<int>(axis.causal), static_cast<int>(axis.boundary)})
      add(value);
  }
  return key;
}

}  // namespace

HopperChoice choose_hopper(const Problem& problem, Stored stored) {
  static std::mutex mutex;
  static std::map<std::string, HopperChoice> known;
  Device device;
  const cudaError_t status = current_device(device);
  if (status != cudaSuccess) {
    HopperChoice choice;
    choice.refusal = cudaGetErrorString(status);
    return choice;
  }
  const std::string key = key_of(problem, stored, device);
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, search(problem, stored, device)).first;
  return found->second;
}

std::string launch_hopper(const HopperChoice& choice, const Forward& arguments,
                          cudaStream_t stream) {
  if (choice.instance == nullptr)
    return "the Hopper kernels do not run this problem: " + choice.refusal;
  Device device;
  cudaError_t status = current_device(device);
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
  Device device;
  cudaError_t status = current_device(device);
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
