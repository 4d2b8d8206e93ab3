// The tiles of an item of the backward pass, in the order in which all warps go through them: those
// of the window for each of the query heads that share the item's key head.
#pragma once

#include "cuda/hopper/item.h"

namespace jax_na::cuda {

struct TileWalk {
  int x = 0, y = 0, z = 0;
  int head;  // of the queries

  JAX_NA_INLINE TileWalk(const HopperItem& item, const HopperBackwardPlan&, const Problem& problem)
      : head(item.head * problem.group()) {}

  JAX_NA_INLINE void next(const HopperItem& item, const HopperBackwardPlan&, const Problem&) {
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
    return item.axis[a].coordinate(along(a), plan.columns[a], problem.axes[a].dilation);
  }
};

// The same with as little as possible looked up from tile to tile along x: look-ups in shared
// memory wait for the operands of products.
struct LineWalk : TileWalk {
  int at[kMaxRank];  // where the tile begins in the tensor
  int seam_tiles;    // along x

  JAX_NA_INLINE LineWalk(const HopperItem& item, const HopperBackwardPlan& plan,
                         const Problem& problem)
      : TileWalk(item, plan, problem), seam_tiles(item.axis[2].seam_tiles) {
    begin_line(item, plan, problem);
  }

  JAX_NA_INLINE void next(const HopperItem& item, const HopperBackwardPlan& plan,
                          const Problem& problem) {
    if (x + 1 < item.axis[2].tiles) {
      ++x;
      at[2] = x == seam_tiles ? item.axis[2].seam_column
                              : at[2] + plan.columns[2] * problem.axes[2].dilation;
    } else {
      TileWalk::next(item, plan, problem);
      begin_line(item, plan, problem);
    }
  }
  JAX_NA_INLINE int coordinate(const HopperItem&, const HopperBackwardPlan&, const Problem&,
                               int a) const {
    return at[a];
  }

 private:
  JAX_NA_INLINE void begin_line(const HopperItem& item, const HopperBackwardPlan& plan,
                                const Problem& problem) {
    for (int a = 0; a < kMaxRank; ++a) at[a] = TileWalk::coordinate(item, plan, problem, a);
  }
};

}  // namespace jax_na::cuda
