// Compiles the Hopper forward kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/hopper/instances.h"

#include "cuda/hopper/forward.h"
#include "cuda/hopper/kernel.h"
#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

template <int kHeadDim, int kBlock, int kWarpgroups, int kResident>
HopperInstance instance() {
  using Shape = HopperShape<T, kHeadDim, kBlock, kWarpgroups, kResident>;
  HopperInstance made{};
  made.limits = {kHeadDim, kBlock, kWarpgroups, false, kResident};
  made.kernel = ptx::address_of(&hopper_forward_kernel<Shape>, kResident);
  made.threads = Shape::kThreads;
  made.shared_bytes = Shape::kSharedBytes;
  made.line_columns = Shape::kLineElements;
  made.out_columns = Shape::kOutElements;
  return made;
}

}  // namespace

template <>
const std::vector<HopperInstance>& hopper_instances<T>() {
#define JAX_NA_ENTRY(head_dim, block, warpgroups, resident) \
  instance<head_dim, block, warpgroups, resident>(),
  static const std::vector<HopperInstance> table = {JAX_NA_HOPPER_FORWARD(JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
