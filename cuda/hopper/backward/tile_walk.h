// The tiles of an item of the backward pass, in the order in which all warps go through them: those
// of the window for each of the query heads that share the item's key head.
#pragma once

#include "cuda/hopper/backward/pairs.h"
#include "cuda/hopper/item.h"

namespace jax_na::cuda {

// kPairs: of a kernel that has pairs of tiles, so many in each line along x.
template <bool kPairs>
struct TileWalk {
  int x = 0, y = 0, z = 0;
  int head;       // of the queries
  int pairs;
  int place = 0;  // of the tile in the order of its line

  JAX_NA_INLINE TileWalk(const HopperItem& item, const HopperBackwardPlan&, const Problem& problem,
                         int line_pairs)
      : head(item.head * problem.group()), pairs(kPairs ? line_pairs : 0) {}

  JAX_NA_INLINE void next(const HopperItem& item, const HopperBackwardPlan&, const Problem&) {
    const int tiles = item.axis[2].tiles;
    if (++place < tiles) {
      x = kPairs ? paired_tile(place, tiles, pairs) : place;
      return;
    }
    x = place = 0;
    if (++y < item.axis[1].tiles) return;
    y = 0;
    if (++z < item.axis[0].tiles) return;
    z = 0;
    ++head;
  }
  // Whether a warpgroup has nothing to do with the tile.
  JAX_NA_INLINE bool passed_over(int warpgroup) const {
    return kPairs && passes_over(place, pairs, warpgroup);
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
template <bool kPairs>
struct LineWalk : TileWalk<kPairs> {
  using Tiles = TileWalk<kPairs>;
  int at[kMaxRank];  // where the tile begins in the tensor
  int line_at;       // and its line, along x
  int seam_tiles;    // along x

  JAX_NA_INLINE LineWalk(const HopperItem& item, const HopperBackwardPlan& plan,
                         const Problem& problem, int line_pairs)
      : Tiles(item, plan, problem, line_pairs),
        line_at(item.axis[2].column),
        seam_tiles(item.axis[2].seam_tiles) {
    begin_line(item, plan, problem);
  }

  JAX_NA_INLINE void next(const HopperItem& item, const HopperBackwardPlan& plan,
                          const Problem& problem) {
    Tiles::next(item, plan, problem);
    if (this->place == 0)
      begin_line(item, plan, problem);
    else
      at[2] = this->x < seam_tiles ? line_at + this->x * plan.columns[2] * problem.axes[2].dilation
                                   : Tiles::coordinate(item, plan, problem, 2);
  }
  JAX_NA_INLINE int coordinate(const HopperItem&, const HopperBackwardPlan&, const Problem&,
                               int a) const {
    return at[a];
  }

 private:
  JAX_NA_INLINE void begin_line(const HopperItem& item, const HopperBackwardPlan& plan,
                                const Problem& problem) {
    for (int a = 0; a < kMaxRank; ++a) at[a] = Tiles::coordinate(item, plan, problem, a);
  }
};

}  // namespace jax_na::cuda
