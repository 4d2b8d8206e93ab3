// The tiles of an item of the backward pass, in the order in which all warps go through them: those
// of the window for each of the query heads that share the item's key head.
#pragma once

#include "cuda/hopper/item.h"

namespace jax_na::cuda {

struct TileWalk {
  int x = 0, y = 0, z = 0;
  int head;  // of the queries

  JAX_NA_INLINE TileWalk(const HopperItem& item, int group) : head(item.head * group) {}

  JAX_NA_INLINE void next(const HopperItem& item) {
    if (++x < item.axis[2].tiles) return;
    x = 0;
    if (++y < item.axis[1].tiles) return;
    y = 0;
    if (++z < item.axis[0].tiles) return;
    z = 0;
    ++head;
  }
  JAX_NA_INLINE int along(int a) const { return a == 2 ? x : a == 1 ? y : z; }
  // Where the tile begins in the tensor.
  JAX_NA_INLINE int coordinate(const HopperItem& item, const HopperBackwardPlan& plan,
                               const Problem& problem, int a) const {
    return item.axis[a].coordinate(along(a), plan.keys[a], problem.axes[a].dilation);
  }
};

}  // namespace jax_na::cuda
