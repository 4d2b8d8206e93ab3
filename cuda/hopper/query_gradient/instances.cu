// Compiles the kernels for the gradient of the queries of one element type, JAX_NA_ELEMENT.
#include "cuda/hopper/query_gradient/instances.h"

#include "cuda/hopper/query_gradient/kernel.h"
#include "cuda/hopper/query_gradient/query_gradient.h"
#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

template <int kHeadDim, int kBlock>
HopperInstance instance() {
  using Shape = HopperQueryGradientShape<T, kHeadDim, kBlock>;
  HopperInstance made{};
  made.limits = {kHeadDim, kBlock, Shape::kWarpgroups, false, Shape::kResident};
  made.limits.pass = HopperPass::kQueryGradient;
  made.kernel = ptx::address_of(&hopper_query_gradient_kernel<Shape>, Shape::kResident);
  made.threads = Shape::kThreads;
  made.shared_bytes = Shape::kSharedBytes;
  made.line_columns = Shape::kLineElements;
  made.out_columns = Shape::kOutElements;
  return made;
}

}  // namespace

template <>
const std::vector<HopperInstance>& hopper_query_gradient_instances<T>() {
#define JAX_NA_ENTRY(head_dim, block) instance<head_dim, block>(),
  static const std::vector<HopperInstance> table = {JAX_NA_HOPPER_QUERY_GRADIENT(JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
