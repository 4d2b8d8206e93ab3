// The tiles of an item of the backward pass, in the order in which all warps go through them: those
// of the window for each of the query heads that share the item's key head.
#pragma once

#include "cuda/hopper/backward/pairs.h"
#include "cuda/hopper/item.h"

namespace jax_na::cuda {

// kPairs: of a kernel that has pairs of tiles.
template <bool kPairs>
struct TileWalk {
  int place = 0;  // of the tile in the order of its line, along x
  int y = 0, z = 0;
  int head;  // of the queries

  JAX_NA_INLINE TileWalk(const HopperItem& item, const HopperBackwardPlan&, const Problem& problem)
      : head(item.head * problem.group()) {}

  JAX_NA_INLINE void next(const HopperItem& item, const HopperBackwardPlan&, const Problem&) {
    if (++place < item.axis[2].tiles) return;
    place = 0;
    if (++y < item.axis[1].tiles) return;
    y = 0;
    if (++z < item.axis[0].tiles) return;
    z = 0;
    ++head;
  }
  // Whether a warpgroup has nothing to do with the tile.
  JAX_NA_INLINE bool passed_over(const HopperItem& item, int warpgroup) const {
    return kPairs && passes_over(place, item.pairs, warpgroup);
  }
  JAX_NA_INLINE int along(const HopperItem& item, int a) const {
    if (a < 2) return a == 1 ? y : z;
    return kPairs ? paired_tile(place, item.axis[2].tiles, item.pairs) : place;
  }
  // Where the tile begins in the tensor.
  JAX_NA_INLINE int coordinate(const HopperItem& item, const HopperBackwardPlan& plan,
                               const Problem& problem, int a) const {
    return item.axis[a].coordinate(along(item, a), plan.columns[a], problem.axes[a].dilation);
  }
};

// The same with what a line has in common looked up once: look-ups in shared memory wait for the
// operands of products.
template <bool kPairs>
struct LineWalk : TileWalk<kPairs> {
  using Tiles = TileWalk<kPairs>;
  int at[kMaxRank];  // where the tile begins in the tensor

  JAX_NA_INLINE LineWalk(const HopperItem& item, const HopperBackwardPlan& plan,
                         const Problem& problem)
      : Tiles(item, plan, problem) {
    place_tile(item, plan, problem);
  }

  JAX_NA_INLINE void next(const HopperItem& item, const HopperBackwardPlan& plan,
                          const Problem& problem) {
    Tiles::next(item, plan, problem);
    place_tile(item, plan, problem);
  }

 private:
  JAX_NA_INLINE void place_tile(const HopperItem& item, const HopperBackwardPlan& plan,
                                const Problem& problem) {
    at[2] = Tiles::coordinate(item, plan, problem, 2);
    if (this->place > 0) return;
    for (int a = 0; a < 2; ++a) at[a] = Tiles::coordinate(item, plan, problem, a);
  }
};

}  // namespace jax_na::cuda
