// Compiles the fused key gradient kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/dispatch.h"
#include "cuda/instances.h"
#include "cuda/key_gradient/kernel.h"
#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

template <int kHeadDim, int kBlock, Products kProducts>
Instance instance() {
  Instance made{};
  made.limits = {kHeadDim,
                 sizeof(T),
                 kBlock,
                 1,
                 sizeof(Columns<kBlock>),
                 0,
                 0,
                 kKeyGradientWarps<T, kHeadDim>};
  made.parts = kHeadDim / kKeyGradientFeatures<kHeadDim>;
  made.precision = kProducts == Products::kSplit ? Precision::kHighest : Precision::kDefault;
  made.kernel = ptx::address_of(&key_gradient_kernel<T, kHeadDim, kBlock, kProducts>);
  return made;
}

}  // namespace

template <>
const std::vector<Instance>& key_gradient_instances<T>() {
#define JAX_NA_ENTRY(head_dim, block, products) instance<head_dim, block, Products::products>(),
  static const std::vector<Instance> table = {JAX_NA_INSTANCES(KEY_GRADIENT, JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
