#include "cuda/hopper/backward/backward.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/device.h"
#include "cuda/hopper/backward/around.h"
#include "cuda/hopper/backward/maps.h"
#include "cuda/hopper/key.h"
#include "cuda/hopper/query_gradient/query_gradient.h"
#include "cuda/workspace.h"

namespace jax_na::cuda {
namespace {

// Of the kernels with sums, or of those that leave out the gradient of the queries.
const std::vector<HopperBackwardInstance>& instances_of(Stored stored, bool sums) {
  static const std::vector<HopperBackwardInstance> none;
  switch (stored) {
    case Stored::kBFloat16:
      return sums ? hopper_backward_instances<__nv_bfloat16>()
                  : hopper_key_gradient_instances<__nv_bfloat16>();
    case Stored::kFloat16:
      return sums ? hopper_backward_instances<__half>() : hopper_key_gradient_instances<__half>();
    default:
      return none;
  }
}

// Of the kernels before and after the main one, which move `bytes` for each feature of a query at
// the rate of the memory.
double around_clocks(const Problem& problem, double bytes) {
  constexpr double kBytesPerClock = 1600;  // of the whole GPU
  return bytes * static_cast<double>(problem.query_rows()) * problem.head_dim / kBytesPerClock;
}

// Sums of the gradients of additional keys that are kept apart.
constexpr int64_t kMostParts = 256;

// One for each launch.
constexpr int64_t kCounterBytes = kMostLaunches * static_cast<int64_t>(sizeof(int));

int64_t statistics_bytes(const Problem& problem) {
  return align_workspace(problem.query_rows() * static_cast<int64_t>(sizeof(float2)));
}
int64_t sums_bytes(const Problem& problem) {
  return align_workspace(problem.query_rows() * sum_features(problem.head_dim) *
                         static_cast<int64_t>(sizeof(float)));
}

// Whether the features of a head are fewer than those of the kernel.
bool heads_apart(const Problem& problem, const HopperBackwardInstance& instance) {
  return problem.head_dim != instance.limits.head_dim;
}

// Of a part.
int64_t additional_elements(const Problem& problem) {
  return 2 * problem.batch * problem.additional * problem.kv_heads * problem.head_dim;
}
int64_t additional_bytes(const Problem& problem, int64_t parts) {
  return align_workspace(parts * additional_elements(problem) *
                         static_cast<int64_t>(sizeof(float)));
}

int64_t boxes_bytes(const Problem& problem) {
  return align_workspace(KeyBoxes::most_bytes(problem));
}

// The instance that runs the problem on a Hopper GPU, or null and why.
const HopperBackwardInstance* instance_for(const Problem& problem, Stored stored, bool sums,
                                           std::string& refusal) {
  if (stored != Stored::kBFloat16 && stored != Stored::kFloat16) {
    refusal = "the elements are neither bfloat16 nor float16";
  } else if (problem.bias_batch > 0) {
    refusal = "there is a relative position bias";
  } else if (!sums && problem.additional > 0 && most_additional_parts(problem) > kMostParts) {
    refusal = "there are additional keys, and too many dilation groups";
  } else if (problem.head_dim != problem.value_dim) {
    refusal = "head_dim of keys and values differ";
  } else {
    const HopperBackwardInstance* found = nullptr;  // of the smallest head dimension that will do
    int most = 0;
    for (const HopperBackwardInstance& instance : instances_of(stored, sums)) {
      const int head_dim = instance.limits.head_dim;
      most = std::max(most, head_dim);
      if (head_dim >= problem.head_dim && (found == nullptr || head_dim < found->limits.head_dim))
        found = &instance;
    }
    const Axis& z = problem.axes[0];
    const bool spare = problem.batch == 1 || (z.query_count == 1 && z.key_count == 1);
    if (found == nullptr || problem.head_dim % 8 != 0)
      refusal = "head_dim " + std::to_string(problem.head_dim) + " is not a multiple of 8 up to " +
                std::to_string(most);
    else if (heads_apart(problem, *found) && !spare)
      refusal = "a head_dim that is not compiled needs a batch or an axis of one";
    else
      return found;
  }
  return nullptr;
}

HopperBackwardChoice search(const Problem& problem, Stored stored, bool sums,
                            const Device& device) {
  HopperBackwardChoice choice;
  if (!device.hopper()) {
    choice.refusal = "the GPU is not of compute capability 9.0";
    return choice;
  }
  const HopperBackwardInstance* instance = instance_for(problem, stored, sums, choice.refusal);
  if (instance == nullptr) return choice;
  if (!make_hopper_backward_plan(problem, instance->limits, device.multiprocessors, choice.plan)) {
    choice.refusal = "no boxes of the copy engine suit the window and its dilation";
    return choice;
  }
  if (sums) {
    choice.plan.clocks += around_clocks(problem, 14);
  } else {
    choice.queries = choose_hopper_query_gradient(problem, stored, device);
    choice.refusal = choice.queries.refusal;
    if (choice.queries.instance == nullptr) return choice;
    choice.plan.clocks += choice.queries.plan.clocks + around_clocks(problem, 4);
  }
  choice.plan.heads_apart = heads_apart(problem, *instance);
  choice.instance = instance;
  return choice;
}

}  // namespace

HopperBackwardChoice choose_hopper_backward(const Problem& problem, Stored stored,
                                            const Device& device) {
  return remembered(hopper_key(problem, stored, device),
                    [&] { return search(problem, stored, true, device); });
}

HopperBackwardChoice choose_hopper_pair(const Problem& problem, Stored stored,
                                        const Device& device) {
  return remembered(hopper_key(problem, stored, device),
                    [&] { return search(problem, stored, false, device); });
}

int64_t hopper_backward_workspace(const Problem& problem, Stored stored) {
  std::string refusal;
  if (instance_for(problem, stored, true, refusal) == nullptr) return 0;
  return statistics_bytes(problem) + boxes_bytes(problem) + kCounterBytes + sums_bytes(problem) +
         additional_bytes(problem, 1);
}

int64_t hopper_pair_workspace(const Problem& problem, Stored stored) {
  std::string refusal;
  if (instance_for(problem, stored, false, refusal) == nullptr) return 0;
  return statistics_bytes(problem) + boxes_bytes(problem) + kCounterBytes +
         additional_bytes(problem, most_additional_parts(problem));
}

std::string launch_hopper_backward(const HopperBackwardChoice& choice, const Backward& arguments,
                                   cudaStream_t stream) {
  if (choice.instance == nullptr)
    return "the Hopper backward kernels do not run this problem: " + choice.refusal;
  const Problem& problem = arguments.problem;
  Device device;
  cudaError_t status = current_device(device);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  auto* statistics = static_cast<float2*>(arguments.workspace);
  char* rest = static_cast<char*>(arguments.workspace) + statistics_bytes(problem);
  const KeyBoxes boxes{reinterpret_cast<uint32_t*>(rest)};
  char* zeros = rest + boxes_bytes(problem);
  const HopperBackwardPlan& plan = choice.plan;
  constexpr int kFirst[kMaxRank] = {0, 0, 0};
  const int launch_parts =
      choice.pair() && problem.additional > 0
          ? static_cast<int>(additional_parts(phase_of(problem, plan.phases, kFirst), plan))
          : 0;
  const int parts = choice.pair() ? plan.launches() * launch_parts : 1;
  const int64_t all_sums_bytes = choice.pair() ? 0 : sums_bytes(problem);
  auto* sums = choice.pair() ? nullptr : reinterpret_cast<float*>(zeros + kCounterBytes);
  auto* additional_sums = reinterpret_cast<float*>(zeros + kCounterBytes + all_sums_bytes);
  status =
      launch_beginning(arguments, plan, boxes, zeros,
                       kCounterBytes + all_sums_bytes + additional_bytes(problem, parts), stream);
  if (status == cudaSuccess) status = launch_statistics(arguments, statistics, stream);
  HopperBackwardArguments to{};
  to.plan = plan;
  to.scale_first = problem.scale <= 0;
  to.score_scale = static_cast<float>(problem.scale * 1.4426950408889634);
  to.weight_factor = to.scale_first ? 1.f : to.score_scale;
  const int most_ctas = device.multiprocessors * choice.instance->limits.resident;
  const HopperBackwardColumns columns = {choice.instance->line_columns,
                                         choice.instance->out_columns};
  for (int launch = 0; launch < plan.launches() && status == cudaSuccess; ++launch) {
    const int line = launch / plan.phases[2];
    const int phase[kMaxRank] = {line / plan.phases[1], line % plan.phases[1],
                                 launch % plan.phases[2]};
    to.problem = phase_of(problem, plan.phases, phase);
    for (int a = 0; a < kMaxRank; ++a) to.boxes[a] = boxes.first(problem, plan, a, phase[a]);
    to.items_taken = reinterpret_cast<int*>(zeros) + launch;
    to.additional_sums = additional_sums + launch * launch_parts * additional_elements(problem);
    const std::string wrong = encode_maps(arguments, phase, columns, sums, statistics, to);
    if (!wrong.empty()) return wrong + " (" + str(plan) + ")";
    void* parameters[] = {&to};
    status = cudaLaunchKernel(choice.instance->kernel,
                              dim3(static_cast<unsigned>(std::min(all_items(plan), most_ctas))),
                              dim3(static_cast<unsigned>(choice.instance->threads)), parameters,
                              static_cast<size_t>(choice.instance->shared_bytes), stream);
  }
  if (status == cudaSuccess && !choice.pair()) status = launch_rounding(arguments, sums, stream);
  if (status == cudaSuccess && problem.additional > 0)
    status = launch_additional_rounding(arguments, additional_sums, parts, stream);
  if (status == cudaSuccess && choice.pair())
    return launch_hopper_query_gradient(choice.queries, arguments, statistics, device, stream);
  if (status == cudaSuccess) return "";
  return std::string("launching the Hopper backward kernels: ") + cudaGetErrorString(status) +
         " (" + str(choice.plan) + ")";
}

std::string load_hopper_backward() {
  Device device;
  cudaError_t status = current_device(device);
  if (status == cudaSuccess && !device.hopper()) return "";
  auto load = [&](const auto& instances) {
    for (const auto& instance : instances) {
      if (status == cudaSuccess)
        status = cudaFuncSetAttribute(instance.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      instance.shared_bytes);
    }
  };
  for (Stored stored : {Stored::kBFloat16, Stored::kFloat16}) {
    load(instances_of(stored, true));
    load(instances_of(stored, false));
    load(hopper_query_gradient_instances(stored));
  }
  if (status == cudaSuccess) return "";
  return std::string("loading a Hopper backward kernel: ") + cudaGetErrorString(status);
}

}  // namespace jax_na::cuda
