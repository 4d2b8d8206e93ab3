// Compiles the Hopper backward kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/hopper/backward/instances.h"

#include "cuda/hopper/backward/backward.h"
#include "cuda/hopper/backward/kernel.h"
#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

template <int kHeadDim, bool kSums>
HopperBackwardInstance instance() {
  using Shape = HopperBackwardShape<T, kHeadDim, kSums>;
  HopperBackwardInstance made{};
  made.limits = {kHeadDim, Shape::kBlock, Shape::kRowGroups, true, Shape::kResident};
  made.limits.pass = kSums ? HopperPass::kGradients : HopperPass::kKeyGradient;
  made.limits.pairs = Shape::kPairs;
  made.kernel = ptx::address_of(&hopper_backward_kernel<Shape>, Shape::kResident);
  made.line_columns = Shape::kLineElements;
  made.out_columns = Shape::kOutElements;
  made.threads = Shape::kThreads;
  made.shared_bytes = Shape::kSharedBytes;
  return made;
}

}  // namespace

template <>
const std::vector<HopperBackwardInstance>& hopper_backward_instances<T>() {
#define JAX_NA_ENTRY(head_dim) instance<head_dim, true>(),
  static const std::vector<HopperBackwardInstance> table = {JAX_NA_HOPPER_BACKWARD(JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

template <>
const std::vector<HopperBackwardInstance>& hopper_key_gradient_instances<T>() {
#define JAX_NA_ENTRY(head_dim) instance<head_dim, false>(),
  static const std::vector<HopperBackwardInstance> table = {
      JAX_NA_HOPPER_KEY_GRADIENT(JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
