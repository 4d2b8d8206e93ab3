// Compiles the combine kernels of one element type, JAX_NA_ELEMENT.
#include "cuda/gemm/combine.h"

#include "cuda/gemm/instances.h"
#include "cuda/ptx/kernel_address.h"

namespace jax_na::cuda {
namespace {

using T = JAX_NA_ELEMENT;

template <int kHeadDim, int kBlock, Products kProducts>
Instance instance() {
  return product_instance<T>(
      kHeadDim, 1, kBlock, sizeof(CombineTables<T, kBlock>), kCombinationCtas<T, kHeadDim>,
      kProducts == Products::kSplit ? Precision::kHighest : Precision::kDefault,
      ptx::address_of(&combine_kernel<T, kHeadDim, kBlock, kProducts>));
}

}  // namespace

template <>
const std::vector<Instance>& combine_instances<T>() {
#define JAX_NA_ENTRY(head_dim, block, products) instance<head_dim, block, Products::products>(),
  static const std::vector<Instance> table = {JAX_NA_PRODUCTS_OF(JAX_NA_TABLE, JAX_NA_ENTRY)};
#undef JAX_NA_ENTRY
  return table;
}

}  // namespace jax_na::cuda
