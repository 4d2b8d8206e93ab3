// The fused forward kernel of small windows: a CTA has all that it sees of an item in one stage,
// and each of its warps all that it sees in one tile.
//
// What then is the same for every item is found once: tokens, masks, and where rows lie in shared
// memory. Nothing is summed over tiles, and steps need no description: threads find out for
// themselves where an item's tensors begin.
#pragma once

#include <cstdint>

#include "cuda/forward/item_copies.h"
#include "cuda/forward/only_tile.h"
#include "cuda/forward/whole_softmax.h"
#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/prefetch.h"
#include "cuda/tile/store.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

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
  find_axes<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work);
  if (threadIdx.x < kMaxRank)
    work.stages.begin[threadIdx.x] = work.axis[threadIdx.x].met.begin;  // the only stage
  find_places(sweep, tables.places);
  __syncthreads();
  if (work.empty()) return;
  find_warps<Side::kQueries>(sweep, work);
  if (warp == static_cast<int>(blockDim.x) / 64) {
    const int counts[] = {problem.axes[0].key_count, problem.axes[1].key_count,
                          problem.axes[2].key_count};
    find_shares(sweep, work, counts, work.stages.begin, tables.shares);
  }
  find_rows<Side::kQueries>(problem, sweep, work, rows);
  __syncthreads();
  find_tokens(sweep, tables.places, tables.shares, 0, 0, tokens);
  __syncthreads();

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
    return Source{ptx::advance(static_cast<const char*>(tensor), row, static_cast<uint32_t>(bytes)),
                  heads * bytes, features};
  };
  auto load = [&](int item, int entry) {
    const ItemRows at(sweep, entry);
    const uint32_t to = key_buffer(item);
    copy_pairs<T, kHeadDim, 2>(
        sweep.stage_rows,
        {source(arguments.key, at.key, problem.kv_heads, problem.head_dim),
         source(arguments.value, at.key, problem.kv_heads, problem.value_dim)},
        {to, to + map.stage_bytes}, [&](int row) { return tokens[row]; });
    copy_pairs<T, kHeadDim, 1>(sweep.rows,
                               {source(arguments.query, at.query, problem.heads, problem.head_dim)},
                               {own_buffer(item)}, [&](int row) { return rows[row].token; });
    return at.query;
  };

  // Everything else is found while the first items come.
  const int ahead = two ? 2 : 1;
  uint32_t next_row = 0, last_row = 0;  // of the queries of the next item, and of the last loaded
  int entry = blockIdx.y;
  auto load_behind = [&](int item) {
    next_row = last_row;
    if (entry < all_items) last_row = load(item, entry);
    entry += gridDim.y;
    ptx::cp_async_commit();
    if (!two) next_row = last_row;
  };
#pragma unroll 1
  for (int item = 0; item < ahead; ++item) load_behind(item);
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
    tile.find_masks({own_rows[lane / 4].token >= 0, own_rows[8 + lane / 4].token >= 0});
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

  auto compute = [&](int item, uint32_t query_row) {
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
    RunningSoftmax softmax = weigh(scores[0], factor, tile.narrow);
    float out[1][kHeadDim / 8][4] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      Weights<T> weights[1];
      weights[0].set(scores[0][2 * c], scores[0][2 * c + 1]);
      add_combination<T, kHeadDim, kProducts>(out, weights, key + map.stage_bytes,
                                              tile.combination_at(c), lane);
    }
    float inverse[2];
    const float lse = softmax.finish_rows(factor, inverse, lane % 4);
    const int token = own_rows[8 * (lane % 2) + lane / 4].token;
    if (lane % 4 < 2 && token >= 0)
      static_cast<float*>(arguments.lse)[query_row + static_cast<uint32_t>(token * problem.heads)] =
          lse;
    store_rows<T, kHeadDim>(out[0], inverse, own, own_rows,
                            static_cast<T*>(arguments.out) +
                                uint64_t{query_row} * static_cast<uint32_t>(problem.value_dim),
                            problem.heads * problem.value_dim, problem.value_dim, lane);
  };

  if (two) {
    ptx::cp_async_wait<1>();
  } else {
    ptx::cp_async_wait<0>();
  }
  __syncthreads();
  // With two buffers the copies of an item run under the computation of the one before.
  for (int item = 0; entry < all_items + ahead * static_cast<int>(gridDim.y); ++item) {
    if (has_rows) compute(item, next_row);
    if (two) ptx::cp_async_wait<0>();
    // Everybody's copies have come, and nobody reads what the next ones overwrite.
    __syncthreads();
    load_behind(item + ahead);
    if (!two) {
      ptx::cp_async_wait<0>();
      __syncthreads();
    }
  }
}

}  // namespace jax_na::cuda
