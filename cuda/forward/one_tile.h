// The fused forward kernel of small windows: a CTA has all that it sees of an item in one stage,
// and each of its warps all that it sees in one tile.
//
// What then is the same for every item is found once: tokens, masks, and where rows lie in shared
// memory. Nothing is summed over tiles, and steps need no description: threads find out for
// themselves where an item's tensors begin.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/opaque.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/prefetch.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/store.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Rows of an item's tensors, before its first token's.
struct ItemRows {
  uint32_t query, key;

  __device__ __forceinline__ ItemRows(const Sweep& sweep, int ordinal) {
    int entry = static_cast<int>(blockIdx.y) + ordinal * static_cast<int>(gridDim.y);
    int head = sweep.heads.split(entry);
    query = entry * sweep.query_rows + head;
    sweep.head_group.split(head);
    key = entry * sweep.key_rows + head;
  }
};

// The softmax of a warp's 16 rows: scores become weights, and each lane has the sums of its
// columns.
template <int kTiles>
__device__ __forceinline__ RunningSoftmax weigh(float (&scores)[kTiles][4], float factor) {
  RunningSoftmax softmax;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    // Two chains of each operation, for its latency.
    float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) highest[e] = fmaxf(highest[e], scores[n][2 * r + e]);
    }
    float maximum = fmaxf(highest[0], highest[1]);
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
    const float reference = maximum == -INFINITY ? 0.f : __fmul_rn(maximum, factor);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& weight = scores[n][2 * r + e];
        weight = ptx::exp2(fmaf(weight, factor, -reference));
        total[e] += weight;
      }
    }
    softmax.maximum[r] = maximum;
    softmax.sum[r] = total[0] + total[1];
  }
  return softmax;
}

// A warp's only tile, as the lanes need it for every item: which columns their rows see, and where
// the streamed rows that they address lie in the stage.
template <int kChunks>
struct OnlyTile {
  uint32_t seen[2];
  int masks;                 // 0: every row sees every column, 1: but for the last chunk, 2: not so
  uint32_t places[kChunks];  // in 16 bytes: for scores the lower half, for combinations the upper

  __device__ __forceinline__ void find_masks() {
    constexpr uint32_t kBefore = (1u << 4 * (kChunks - 1)) - 1, kLast = 15u << 4 * (kChunks - 1);
    const uint32_t hidden = ~(seen[0] & seen[1]);
    const bool before = __any_sync(~0u, (hidden & kBefore) != 0);
    masks = before ? 2 : __any_sync(~0u, (hidden & kLast) != 0) ? 1 : 0;
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

constexpr int kOneTileWarps = 16;  // of a multiprocessor

// Grid: boxes of all dilation groups, and CTAs that share the items of a box. The problem has
// neither a bias nor additional tokens.
template <typename T, int kHeadDim, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kOneTileWarps / kMaxWarps)
    one_tile_kernel(const __grid_constant__ Forward arguments,
                    const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  constexpr int kChunks = kBlock / 16;

  JAX_NA_SHARED(shared_memory);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Columns<kBlock>& columns = *reinterpret_cast<Columns<kBlock>*>(shared_memory + map.columns);
  const CtaTables tables(shared_memory, map);
  RowWork* rows = tables.rows;
  Work& work = tables.work;
  int* tokens = tables.tokens;
  const uint32_t shared = ptx::shared_address(shared_memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  const int all_items = static_cast<int>(problem.batch) * problem.heads;
  if (sweep.at_once) {
    const int64_t queries = problem.query_rows();
    const int64_t keys = problem.key_rows();
    prefetch_first<T, 3>({{arguments.query, queries * problem.head_dim},
                          {arguments.key, keys * problem.head_dim},
                          {arguments.value, keys * problem.value_dim}},
                         all_items, sweep.buffers);
  }
  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_places(sweep, tables.places);
  if (warp == 0) {
    const int counts[] = {problem.axes[0].key_count, problem.axes[1].key_count,
                          problem.axes[2].key_count};
    find_shares(sweep, work, counts, work.stages.begin, tables.shares);
  }
  __syncthreads();
  find_tokens(sweep, tables.places, tables.shares, 0, 0, tokens);
  __syncthreads();

  const int items = own_items(all_items);
  const bool two = sweep.buffers == 2;
  // exp2(factor * score); where that would not do the scores are scaled first.
  const float scale = static_cast<float>(problem.scale * 1.4426950408889634);
  const bool scale_first = scale <= 0.f;
  const float factor = scale_first ? 1.f : scale;

  // The parity of items decides between two buffers.
  auto own_buffer = [&](int item) {
    return shared + map.stationary + (two && item % 2 != 0 ? map.stationary_bytes : 0);
  };
  auto key_buffer = [&](int item) {
    return shared + map.stage + (two && item % 2 != 0 ? 2 * map.stage_bytes : 0);
  };
  auto source = [](const void* tensor, uint32_t row, int heads, int features) {
    const int bytes = features * static_cast<int>(sizeof(T));
    return Source{static_cast<const char*>(tensor) + uint64_t{row} * static_cast<uint32_t>(bytes),
                  heads * bytes, features};
  };
  auto load = [&](int item) {
    const ItemRows at(sweep, item);
    const uint32_t to = key_buffer(item);
    copy_rows<T, kHeadDim, 2>(
        sweep.stage_rows,
        {source(arguments.key, at.key, problem.kv_heads, problem.head_dim),
         source(arguments.value, at.key, problem.kv_heads, problem.value_dim)},
        {to, to + map.stage_bytes}, [&](int row) { return tokens[row]; });
    copy_rows<T, kHeadDim, 1>(sweep.rows,
                              {source(arguments.query, at.query, problem.heads, problem.head_dim)},
                              {own_buffer(item)}, [&](int row) { return rows[row].token; });
  };

  // Everything else is found while the first items come.
  const int ahead = two ? 2 : 1;
  for (int item = 0; item < ahead; ++item) {
    if (item < items) load(item);
    ptx::cp_async_commit();
  }
  find_columns(problem, sweep, 1, columns);
  __syncthreads();
  const RowWork* own_rows = rows + warp * kRowsPerFragment;
  const bool has_rows = own_rows[0].token >= 0;
  OnlyTile<kChunks> tile;
  {
    const Tile at = only_tile(sweep, work, warp);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowWork& row = own_rows[8 * r + lane / 4];
      // What rows without a token see does not matter.
      tile.seen[r] =
          row.token < 0 ? ~0u : seen_columns(columns, sweep, row, at, kAllUnsure, lane % 4);
    }
    tile.find_masks();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const StreamedLane scores = scores_lane(lane), combine = combine_lane(lane);
      const uint32_t first =
          R::chunk_offset(at.row + columns.row[16 * c + scores.row], scores.half);
      const uint32_t second =
          R::chunk_offset(at.row + columns.row[16 * c + combine.row], combine.half);
      tile.places[c] = first >> 4 | second >> 4 << 16;
    }
  }

  auto compute = [&](int item) {
    const uint32_t own = own_buffer(item) + warp * kRowsPerFragment * R::kBytes;
    const uint32_t key = key_buffer(item);
    float scores[1][2 * kChunks][4];
    {
      Stationary<T, kHeadDim, 1, R::kSteps <= 8> query;
      query.load(own, lane);
      uint32_t offsets[kChunks];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) offsets[c] = tile.scores_at(c);
      find_scores<T, kHeadDim, kProducts>(scores, query, key, offsets);
    }
    if (scale_first) {
#pragma unroll
      for (int n = 0; n < 2 * kChunks; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[0][n][i] *= scale;
      }
    }
    if (tile.masks > 1) hide(scores[0], tile.seen, 0, kChunks - 1);
    if (tile.masks > 0) hide(scores[0], tile.seen, kChunks - 1, kChunks);
    RunningSoftmax softmax = weigh(scores[0], factor);
    float out[1][kHeadDim / 8][4] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      Weights<T> weights[1];
      weights[0].set(scores[0][2 * c], scores[0][2 * c + 1]);
      add_combination<T, kHeadDim, kProducts>(out, weights, key + map.stage_bytes,
                                              tile.combination_at(c), lane);
    }
    const ItemRows at(sweep, item);
    float inverse[2];
    const float lse = softmax.finish_rows(factor, inverse, lane % 4);
    const int token = own_rows[8 * (lane % 2) + lane / 4].token;
    if (lane % 4 < 2 && token >= 0)
      static_cast<float*>(arguments.lse)[at.query + static_cast<uint32_t>(token * problem.heads)] =
          lse;
    store_rows<T, kHeadDim>(out[0], inverse, own, own_rows,
                            static_cast<T*>(arguments.out) +
                                uint64_t{at.query} * static_cast<uint32_t>(problem.value_dim),
                            problem.heads * problem.value_dim, problem.value_dim, lane);
  };

  if (two) {
    ptx::cp_async_wait<1>();
  } else {
    ptx::cp_async_wait<0>();
  }
  __syncthreads();
  // With two buffers the copies of an item run under the computation of the one before.
  for (int item = 0; item < items; ++item) {
    if (has_rows) compute(item);
    if (two) ptx::cp_async_wait<0>();
    // Everybody's copies have come, and nobody reads what the next ones overwrite.
    __syncthreads();
    if (item + ahead < items) load(item + ahead);
    ptx::cp_async_commit();
    if (!two) {
      ptx::cp_async_wait<0>();
      __syncthreads();
    }
  }
}

}  // namespace jax_na::cuda
