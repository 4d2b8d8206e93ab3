// Compiles the scores kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/gemm/scores.h"

#include "cuda/gemm/instances.h"
#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

template <int kHeadDim, int kBlock, Products kProducts>
Instance instance() {
  // With two fragments of rows each streamed row read from shared memory serves twice.
  constexpr int kRowTiles = kHeadDim > 32 && sizeof(T) == 2 ? 2 : 1;
  return product_instance<T>(
      kHeadDim, kRowTiles, kBlock, sizeof(ScoresTables<kBlock, kRowTiles>),
      kScoresCtas<T, kHeadDim, kProducts>,
      kProducts == Products::kSplit ? Precision::kHighest : Precision::kDefault,
      ptx::address_of(&scores_kernel<T, kHeadDim, kRowTiles, kBlock, kProducts>));
}

}  // namespace

template <>
const std::vector<Instance>& scores_instances<T>() {
#define JAX_NA_ENTRY(head_dim, block, products) instance<head_dim, block, Products::products>(),
  static const std::vector<Instance> table = {JAX_NA_PRODUCTS_OF(JAX_NA_TABLE, JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
