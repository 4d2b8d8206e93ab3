// The only tile of a warp, of which all items of a CTA have everything but the elements in common.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/plan.h"
#include "cuda/ptx/opaque.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// It, as the lanes need it for every item: which columns their rows see, and where the streamed
// rows that they address lie in the stage.
template <int kChunks>
struct OnlyTile {
  static constexpr bool kMayBeNarrow = kChunks <= 4;  // larger ones leave no register for it

  uint32_t seen[2];
  int masks;                 // 0: every row sees every column, 1: but for the last chunk, 2: not so
  bool narrow;               // nobody sees the last 8 columns
  uint32_t places[kChunks];  // in 16 bytes: for scores the lower half, for combinations the upper

  // `used`: whether this lane's rows hold tokens.
  __device__ __forceinline__ void find_masks(const bool (&used)[2]) {
    constexpr uint32_t kBefore = (1u << 4 * (kChunks - 1)) - 1, kLast = 15u << 4 * (kChunks - 1);
    const uint32_t hidden = ~(seen[0] & seen[1]);
    const bool before = __any_sync(~0u, (hidden & kBefore) != 0);
    masks = before ? 2 : __any_sync(~0u, (hidden & kLast) != 0) ? 1 : 0;
    const uint32_t any = (used[0] ? seen[0] : 0) | (used[1] ? seen[1] : 0);
    narrow = kMayBeNarrow && !__any_sync(~0u, (any & (12u << 4 * (kChunks - 1))) != 0);
  }
  __device__ __forceinline__ uint32_t scores_at(int chunk) const {
    return (ptx::anew(places[chunk]) & 0xffff) << 4;
  }
  __device__ __forceinline__ uint32_t combination_at(int chunk) const {
    return ptx::anew(places[chunk]) >> 16 << 4;
  }
};

// Hides what a row does not see in chunks `begin` to `end` of a tile.
template <int kTiles>
__device__ __forceinline__ void hide(float (&scores)[kTiles][4], const uint32_t (&seen)[2],
                                     int begin, int end) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    if (n < 2 * begin || n >= 2 * end) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!(seen[i / 2] >> (2 * n + i % 2) & 1)) scores[n][i] = -INFINITY;
  }
}

// What a warp sees, as a tile of the stage.
__device__ __forceinline__ Tile only_tile(const Sweep& sweep, const Work& work, int warp) {
  Tile tile{};
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int stage = work.stages.begin[a], need = work.warp[warp].need[a].begin;
    // A tile that would leave the stage begins earlier.
    tile.origin[a] = max(stage, min(need, stage + sweep.stage[a] - sweep.tile[a]));
    tile.nominal[a] = tile.origin[a];
    tile.row = tile.row * (a == 2 ? sweep.pitch : sweep.stage[a]) + tile.origin[a] - stage;
  }
  return tile;
}

}  // namespace jax_na::cuda
