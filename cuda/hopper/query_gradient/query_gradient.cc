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
    HopperChoice best;
    best.refusal = "no boxes of the copy engine suit the window and its dilation";
    for (const HopperInstance& instance : hopper_query_gradient_instances(stored)) {
      if (instance.limits.head_dim != problem.head_dim) continue;
      for (const HopperPlan& plan :
           hopper_plans(problem, instance.limits, device.multiprocessors, 1))
        if (best.instance == nullptr || plan.clocks < best.plan.clocks)
          best = {&instance, plan, ""};
    }
    return best;
  });
}

std::string launch_hopper_query_gradient(const HopperChoice& choice, const Backward& arguments,
                                         const float2* statistics, const Device& device,
                                         cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  HopperQueryGradientArguments to{};
  to.problem = problem;
  to.origins = arguments.origins;
  to.plan = choice.plan;
  to.statistics = statistics;
  // Tensors of queries are mapped alike, whatever they hold.
  Forward of{};
  of.problem = problem;
  of.stored = arguments.stored;
  of.key = arguments.key;
  of.value = arguments.value;
  of.out = arguments.dquery;
  of.lse = const_cast<void*>(arguments.lse);
  constexpr int kOnlyPhase[kMaxRank] = {0, 0, 0};
  std::string wrong;
  auto map_queries = [&](const void* queries) {
    of.query = queries;
    if (wrong.empty()) wrong = encode_maps(of, kOnlyPhase, choice.instance->out_columns, to);
    return to.query;
  };
  to.dout = map_queries(arguments.dout);
  to.query = map_queries(arguments.query);
  if (!wrong.empty()) return wrong + " (" + str(choice.plan) + ")";
  void* parameters[] = {&to};
  const cudaError_t status = cudaLaunchKernel(
      choice.instance->kernel,
      dim3(static_cast<unsigned>(std::min(choice.plan.items, device.multiprocessors))),
      dim3(static_cast<unsigned>(choice.instance->threads)), parameters,
      static_cast<size_t>(choice.instance->shared_bytes), stream);
  if (status == cudaSuccess) return "";
  return std::string("launching the Hopper kernel for the gradient of the queries: ") +
         cudaGetErrorString(status) + " (" + str(choice.plan) + ")";
}

}  // namespace jax_na::cuda
