// Compiles the fused query gradient kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/dispatch.h"
#include "cuda/instances.h"
#include "cuda/ptx/kernel_address.h"
#include "cuda/query_gradient/kernel.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

template <int kHeadDim, int kRowTiles, int kBlock, Products kProducts>
Instance instance() {
  Instance made{};
  made.limits = {kHeadDim,
                 sizeof(T),
                 kBlock,
                 kRowTiles,
                 sizeof(Columns<kBlock>),
                 0,
                 0,
                 kQueryGradientWarps<T, kHeadDim, kRowTiles>};
  made.precision = kProducts == Products::kSplit ? Precision::kHighest : Precision::kDefault;
  made.kernel = ptx::address_of(&query_gradient_kernel<T, kHeadDim, kRowTiles, kBlock, kProducts>);
  return made;
}

}  // namespace

template <>
const std::vector<Instance>& query_gradient_instances<T>() {
#define JAX_NA_ENTRY(head_dim, row_tiles, block, products) \
  instance<head_dim, row_tiles, block, Products::products>(),
  static const std::vector<Instance> table = {JAX_NA_INSTANCES(QUERY_GRADIENT, JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
