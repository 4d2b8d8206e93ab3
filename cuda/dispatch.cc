#include "cuda/dispatch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "cuda/remembered.h"

namespace jax_na::cuda {
namespace {

constexpr int64_t kMostSharers = 65535;  // the grid's second axis

std::string what(cudaError_t status, const char* doing) {
  return std::string(doing) + ": " + cudaGetErrorString(status);
}

// How many CTAs share the items of a box: as many as bring the fewest rounds of full
// multiprocessors, where a CTA pays for finding its work before its first item.
int sharers(int64_t boxes, int64_t items, int64_t resident) {
  constexpr double kStart = 1.0;  // in items
  int best = 1;
  double best_cost = 1e300;
  for (int64_t n = 1; n <= std::min(items, kMostSharers); ++n) {
    const int64_t share = (items + n - 1) / n;
    if (n > 1 && (items + n - 2) / (n - 1) == share) continue;  // fewer do as well
    const double rounds = std::ceil(static_cast<double>(boxes * n) / static_cast<double>(resident));
    // Rounds overlap where CTAs end at different times.
    const double cost =
        (0.5 * rounds + 0.5 * std::max(1.0, static_cast<double>(boxes * n) / resident)) *
        (static_cast<double>(share) + kStart);
    if (cost < best_cost) {
      best_cost = cost;
      best = static_cast<int>(n);
    }
  }
  return best;
}

int64_t items_of(const Problem& problem, Pass pass, const Instance& instance) {
  return problem.batch * (pass == Pass::kKeyGradient ? problem.kv_heads : problem.heads) *
         instance.parts;
}

Choice search(const std::vector<Instance>& instances, Pass pass, const Problem& problem,
              Precision precision, const Device& device) {
  const int widest = std::max(problem.head_dim, problem.value_dim);
  int head_dim = 0;  // the smallest that will do
  for (const Instance& instance : instances)
    if (instance.limits.head_dim >= widest &&
        (head_dim == 0 || instance.limits.head_dim < head_dim))
      head_dim = instance.limits.head_dim;
  Choice best;
  for (const Instance& instance : instances) {
    if (instance.limits.head_dim != head_dim || instance.precision != precision) continue;
    KernelLimits limits = instance.limits;
    limits.shared_bytes = device.shared_bytes;
    limits.sm_shared_bytes = device.sm_shared_bytes;
    Sweep sweep;
    const double clocks = make_sweep(problem, pass, limits, sweep);
    if (clocks >= 0 && (best.instance == nullptr || clocks < best.clocks))
      best = {&instance, sweep, clocks};
  }
  if (best.instance != nullptr) {
    int resident = 0;
    if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, best.instance->kernel,
                                                      32 * best.sweep.warp_count,
                                                      best.sweep.map.total) != cudaSuccess)
      resident = 1;
    const int64_t items = items_of(problem, pass, *best.instance);
    best.sweep.heads = FastDiv(static_cast<int>(items / problem.batch));
    const int64_t boxes = best.sweep.all_boxes(problem);
    const int64_t held = static_cast<int64_t>(std::max(resident, 1)) * device.multiprocessors;
    best.sweep.sharers = sharers(boxes, items, held);
    best.sweep.at_once = boxes * best.sweep.sharers <= held;
  }
  return best;
}

std::string describe(const Problem& problem) {
  std::string text = "batch " + std::to_string(problem.batch) + ", lengths";
  for (const Axis& axis : problem.axes) text += " " + std::to_string(axis.length);
  text += ", kernel_size";
  for (const Axis& axis : problem.axes) text += " " + std::to_string(axis.window);
  return text + ", heads " + std::to_string(problem.heads) + ", head_dim " +
         std::to_string(problem.head_dim);
}

}  // namespace

Choice choose(const std::vector<Instance>& instances, Pass pass, const Problem& problem,
              Precision precision, const Device& device) {
  const PlanKey key(problem, &instances, pass, precision, device.shared_bytes,
                    device.sm_shared_bytes, device.multiprocessors);
  return remembered(key, [&] { return search(instances, pass, problem, precision, device); });
}

Choice choose(const std::vector<Instance>& instances, Pass pass, const Problem& problem,
              Precision precision) {
  Device device;
  if (current_device(device) != cudaSuccess) return {};
  return choose(instances, pass, problem, precision, device);
}

std::string dispatch(const std::vector<Instance>& instances, Pass pass, const Problem& problem,
                     Precision precision, const void* arguments, cudaStream_t stream) {
  return launch(choose(instances, pass, problem, precision), pass, problem, arguments, stream);
}

std::string launch(const Choice& choice, Pass pass, const Problem& problem, const void* arguments,
                   cudaStream_t stream) {
  if (choice.instance == nullptr)
    return "no compiled CUDA kernel runs this problem (" + describe(problem) + ")";
  const int64_t boxes = choice.sweep.all_boxes(problem);
  if (boxes > INT32_MAX || items_of(problem, pass, *choice.instance) > INT32_MAX)
    return "the problem has too many tiles for one grid (" + describe(problem) + ")";
  void* parameters[] = {const_cast<void*>(arguments), const_cast<Sweep*>(&choice.sweep)};
  const cudaError_t status = cudaLaunchKernel(
      choice.instance->kernel, dim3(static_cast<unsigned>(boxes), choice.sweep.sharers),
      dim3(32 * choice.sweep.warp_count), parameters, choice.sweep.map.total, stream);
  if (status != cudaSuccess)
    return what(status, "launching a CUDA kernel") + " (" + describe(problem) + ", " +
           str(choice.sweep) + ")";
  return "";
}

std::string load(const std::vector<Instance>& instances) {
  Device device;
  cudaError_t status = current_device(device);
  if (status != cudaSuccess) return what(status, "asking for the GPU's shared memory");
  for (const Instance& instance : instances) {
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, instance.kernel);
    if (status == cudaSuccess)
      status = cudaFuncSetAttribute(instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    device.shared_bytes);
    if (status != cudaSuccess) return what(status, "loading a CUDA kernel");
  }
  return "";
}

const std::vector<Instance>& instances_of(Pass pass, Stored stored) {
  static const std::vector<Instance> none;
  auto of = [&](auto element) -> const std::vector<Instance>& {
    using T = decltype(element);
    switch (pass) {
      case Pass::kForward:
        return forward_instances<T>();
      case Pass::kQueryGradient:
        return query_gradient_instances<T>();
      default:
        return key_gradient_instances<T>();
    }
  };
  switch (stored) {
    case Stored::kFloat32:
      return of(float());
    case Stored::kBFloat16:
      return of(__nv_bfloat16());
    case Stored::kFloat16:
      return of(__half());
    default:
      return none;
  }
}

}  // namespace jax_na::cuda
