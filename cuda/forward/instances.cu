// Compiles the fused forward kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/dispatch.h"
#include "cuda/forward/kernel.h"
#include "cuda/forward/streamed.h"
#include "cuda/instances.h"
#include "cuda/ptx/kernel_address.h"

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
                 kForwardWarps<T, kHeadDim, kRowTiles>,
                 false};
  made.precision = kProducts == Products::kSplit ? Precision::kHighest : Precision::kDefault;
  made.kernel = ptx::address_of(&forward_kernel<T, kHeadDim, kRowTiles, kBlock, kProducts>);
  return made;
}

template <int kHeadDim>
Instance streamed() {
  Instance made{};
  made.limits = {kHeadDim,
                 sizeof(T),
                 kStreamedBlock,
                 kStreamedRowTiles,
                 sizeof(Columns<kStreamedBlock>),
                 0,
                 0,
                 kStreamedWarps * kStreamedResident<kHeadDim>,
                 true};
  made.precision = Precision::kDefault;
  made.kernel = ptx::address_of(&streamed_kernel<T, kHeadDim>);
  return made;
}

}  // namespace

template <>
const std::vector<Instance>& forward_instances<T>() {
#define JAX_NA_ENTRY(head_dim, row_tiles, block, products) \
  instance<head_dim, row_tiles, block, Products::products>(),
#define JAX_NA_STREAMED(head_dim) streamed<head_dim>(),
  static const std::vector<Instance> table = {JAX_NA_INSTANCES(FORWARD, JAX_NA_ENTRY)
                                                  JAX_NA_INSTANCES(STREAMED, JAX_NA_STREAMED)};
#undef JAX_NA_STREAMED
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
