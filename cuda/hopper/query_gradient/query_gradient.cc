#include "cuda/hopper/query_gradient/query_gradient.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/hopper/key.h"
#include "cuda/hopper/maps.h"
#include "cuda/hopper/query_gradient/arguments.h"
#include "cuda/hopper/tensor_map.h"

namespace jax_na::cuda {

const std::vector<HopperInstance>& hopper_query_gradient_instances(Stored stored) {
  static const std::vector<HopperInstance> none;
  switch (stored) {
    case Stored::kBFloat16:
      return hopper_query_gradient_instances<__nv_bfloat16>();
    case Stored::kFloat16:
      return hopper_query_gradient_instances<__half>();
    default:
      return none;
  }
}

HopperChoice choose_hopper_query_gradient(const Problem& problem, Stored stored,
                                          const Device& device) {
  return remembered(hopper_key(problem, stored, device), [&] {
    const std::vector<HopperInstance>& instances = hopper_query_gradient_instances(stored);
    int head_dim = 0;  // the smallest that will do
    for (const HopperInstance& instance : instances) {
      const int features = instance.limits.head_dim;
      if (features >= problem.head_dim && (head_dim == 0 || features < head_dim))
        head_dim = features;
    }
    HopperChoice best;
    best.refusal = "no boxes of the copy engine suit the window and its dilation";
    for (const HopperInstance& instance : instances) {
      if (instance.limits.head_dim != head_dim) continue;
      for (const HopperPlan& plan :
           hopper_plans(problem, instance.limits, device.multiprocessors, 1))
        if (best.instance == nullptr || plan.clocks < best.plan.clocks)
          best = {&instance, plan, ""};
    }
    best.plan.heads_apart = problem.head_dim != head_dim;
    return best;
  });
}

std::string launch_hopper_query_gradient(const HopperChoice& choice, const Backward& arguments,
                                         const float2* statistics, const Device& device,
                                         cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const HopperPlan& plan = choice.plan;
  const int most_ctas = device.multiprocessors * choice.instance->limits.resident;
  HopperQueryGradientArguments to{};
  to.origins = arguments.origins;
  to.plan = plan;
  // As the forward pass's tensors are mapped, of which the statistics are one of one feature.
  Forward of{};
  of.problem = problem;
  of.stored = arguments.stored;
  of.key = arguments.key;
  of.value = arguments.value;
  of.additional_keys = arguments.additional_keys;
  of.additional_values = arguments.additional_values;
  of.out = arguments.dquery;
  of.lse = const_cast<void*>(arguments.lse);
  int queries[kMaxRank];
  for (int a = 0; a < kMaxRank; ++a) queries[a] = problem.axes[a].query_count;
  const MappedTensor rows = whole_tensor(statistics, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 1, 1, queries,
                                         problem.batch * problem.heads);
  for (int launch = 0; launch < plan.launches(); ++launch) {
    const int line = launch / plan.phases[2];
    const int phase[kMaxRank] = {line / plan.phases[1], line % plan.phases[1],
                                 launch % plan.phases[2]};
    to.problem = phase_of(problem, plan.phases, phase);
    const MappedTensor own = phase_of(rows, plan.phases, phase);
    to.statistics = statistics + own.first;
    to.statistics_head = own.entry;
    std::copy(own.steps, own.steps + kMaxRank, to.statistics_steps);
    std::string wrong;
    auto map_queries = [&](const void* data) {
      of.query = data;
      if (wrong.empty())
        wrong =
            encode_maps(of, phase, choice.instance->line_columns, choice.instance->out_columns, to);
      return to.query;
    };
    to.dout = map_queries(arguments.dout);
    to.query = map_queries(arguments.query);
    if (!wrong.empty()) return wrong + " (" + str(plan) + ")";
    void* parameters[] = {&to};
    const cudaError_t status = cudaLaunchKernel(
        choice.instance->kernel, dim3(static_cast<unsigned>(std::min(plan.items, most_ctas))),
        dim3(static_cast<unsigned>(choice.instance->threads)), parameters,
        static_cast<size_t>(choice.instance->shared_bytes), stream);
    if (status != cudaSuccess)
      return std::string("launching the Hopper kernel for the gradient of the queries: ") +
             cudaGetErrorString(status) + " (" + str(plan) + ")";
  }
  return "";
}

}  // namespace jax_na::cuda
