// Compiles the fused forward kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/dispatch.h"
#include "cuda/forward/kernel.h"
#include "cuda/forward/one_tile.h"
#include "cuda/forward/streamed.h"
#include "cuda/instances.h"
#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

// A kernel of `warps` to a multiprocessor, with tiles of `row_tiles` fragments by kBlock columns.
template <int kHeadDim, int kBlock, typename Kernel>
Instance of_sizes(int row_tiles, int warps, Products products, Kernel kernel) {
  Instance made{};
  made.limits.head_dim = kHeadDim;
  made.limits.element_bytes = sizeof(T);
  made.limits.block = kBlock;
  made.limits.row_tiles = row_tiles;
  made.limits.columns_bytes = sizeof(Columns<kBlock>);
  made.limits.sm_warps = warps;
  made.precision = products == Products::kSplit ? Precision::kHighest : Precision::kDefault;
  made.kernel = ptx::address_of(kernel);
  return made;
}

template <int kHeadDim, int kRowTiles, int kBlock, Products kProducts>
Instance instance() {
  return of_sizes<kHeadDim, kBlock>(kRowTiles, kForwardWarps<T, kHeadDim, kRowTiles>, kProducts,
                                    &forward_kernel<T, kHeadDim, kRowTiles, kBlock, kProducts>);
}

template <int kHeadDim, int kBlock, Products kProducts>
Instance one_tile() {
  Instance made = of_sizes<kHeadDim, kBlock>(1, kOneTileWarps, kProducts,
                                             &one_tile_kernel<T, kHeadDim, kBlock, kProducts>);
  made.limits.one_tile = true;
  return made;
}

template <int kHeadDim>
Instance streamed() {
  Instance made = of_sizes<kHeadDim, kStreamedBlock>(
      kStreamedRowTiles, kStreamedWarps * kStreamedResident<kHeadDim>, Products::kPlain,
      &streamed_kernel<T, kHeadDim>);
  made.limits.streams = true;
  return made;
}

}  // namespace

template <>
const std::vector<Instance>& forward_instances<T>() {
#define JAX_NA_ENTRY(head_dim, row_tiles, block, products) \
  instance<head_dim, row_tiles, block, Products::products>(),
#define JAX_NA_ONE_TILE(head_dim, block, products) one_tile<head_dim, block, Products::products>(),
#define JAX_NA_STREAMED(head_dim) streamed<head_dim>(),
  static const std::vector<Instance> table = {JAX_NA_INSTANCES(FORWARD, JAX_NA_ENTRY)
                                                  JAX_NA_INSTANCES(STREAMED, JAX_NA_STREAMED)
                                                      JAX_NA_INSTANCES(ONE_TILE, JAX_NA_ONE_TILE)};
#undef JAX_NA_STREAMED
#undef JAX_NA_ONE_TILE
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
