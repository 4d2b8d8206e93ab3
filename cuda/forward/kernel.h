// The fused forward kernel of every GPU since sm_80: a warp keeps the scores of its rows in
// registers, from the first product through the softmax to the second.
//
// A CTA finds out once where its box lies and what it sees, then goes through heads and batch
// entries (items): it loads the queries, and stage by stage the keys and values that any of them
// sees. For small windows one stage is all, and every warp picks its own neighborhood out of it;
// for large ones stages follow each other in two buffers, each a tile for all warps.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/steps.h"
#include "cuda/tile/store.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Warps of a kernel that a multiprocessor has registers for.
template <typename T, int kHeadDim, int kRowTiles>
constexpr int kForwardWarps = sizeof(T) == 2 && kHeadDim <= 64 && kRowTiles == 1 ? 16 : 8;

// Grid: boxes of all dilation groups, and CTAs that share the items of a box.
template <typename T, int kHeadDim, int kRowTiles, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kForwardWarps<T, kHeadDim, kRowTiles> / kMaxWarps)
    forward_kernel(const __grid_constant__ Forward arguments, const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  constexpr int kTiles = kBlock / 8;
  constexpr bool kAnySize = kRowTiles == 1;
  constexpr bool kQueryInRegisters = kRowTiles * R::kSteps <= 8;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Columns<kBlock>& columns = *reinterpret_cast<Columns<kBlock>*>(shared + map.columns);
  const CtaTables tables(shared, map);
  RowWork* rows = tables.rows;
  Work& work = tables.work;
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_columns(problem, sweep, 1, columns);
  find_places(sweep, tables.places);
  const RowWork* own_rows = rows + warp * sweep.warp_rows();
  const uint32_t own = warp * sweep.warp_rows() * R::kBytes;

  const Stages& stages = work.stages;
  const int steps = own_items(static_cast<int>(problem.batch) * problem.heads) * stages.total;
  // exp2(factor * score); where that would not do the scores are scaled first.
  const bool scale_first = problem.bias_batch > 0 || problem.scale <= 0;
  const float scale = static_cast<float>(problem.scale * 1.4426950408889634);
  const float factor = scale_first ? 1.f : scale;

  Stationary<T, kHeadDim, kRowTiles, kQueryInRegisters> query;
  RunningSoftmax softmax[kRowTiles];
  float out[kRowTiles][kHeadDim / 8][4];

  auto describe = [&](int index) {
    describe_for_warps<Side::kQueries, kBlock>(problem, sweep, arguments.bias, 1, index, tables);
  };
  auto find = [&](int step, int table) { find_step_tokens(sweep, tables, step, table); };

  // Where an item's queries are.
  auto own_buffer = [&](const Step& s) {
    return base + map.stationary +
           (sweep.own_buffers == 2 ? s.ordinal % 2 : 0) * map.stationary_bytes;
  };

  auto load = [&](int step, int table, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const int* stage_tokens = tables.tokens + table * sweep.stage_rows;
    const uint32_t key_to = base + map.stage + 2 * buffer * map.stage_bytes;
    load_rows<T, kHeadDim, 2>(sweep.stage_rows,
                              {source<T>(s.window ? arguments.key : arguments.additional_keys,
                                         s.key, problem.kv_heads, problem.head_dim),
                               source<T>(s.window ? arguments.value : arguments.additional_values,
                                         s.value, problem.kv_heads, problem.value_dim)},
                              {key_to, key_to + map.stage_bytes},
                              [&](int row) { return stage_tokens[row]; });
  };

  auto load_own = [&](int step) {
    const Step& s = work.steps[step % kStepsKnown];
    load_rows<T, kHeadDim, 1>(
        sweep.rows, {source<T>(arguments.query, s.query, problem.heads, problem.head_dim)},
        {own_buffer(s)}, [&](int row) { return rows[row].token; });
  };

  auto used_chunks = [&](const Tile& tile) {
    return ((tile.line > 0 ? tile.line : sweep.tile_size) + 15) / 16;
  };

  // What each row sees of a tile, as bits. They stay while a warp has but one tile.
  uint32_t seen[kRowTiles][2];
  auto look = [&](const Tile& tile, int unsure) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r)
        seen[m][r] =
            seen_columns(columns, sweep, own_rows[16 * m + 8 * r + lane / 4], tile, unsure, t);
    }
  };

  // Scales, and adds the bias.
  auto scale_scores = [&](float (&scores)[kRowTiles][kTiles][4], const Tile& tile, int chunks,
                          const Step& s) {
    const float* bias = s.bias;
    const bool with_bias = bias != nullptr && tile.line == 0;
    const int tile_at = with_bias ? tile_bias(problem, tile.origin, 1) : 0;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int at = own_rows[16 * m + 8 * r + lane / 4].bias + tile_at;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          if (n / 2 >= chunks) break;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = scores[m][n][2 * r + e];
            score *= scale;
            if (with_bias && (seen[m][r] >> (2 * n + e) & 1))
              score = fmaf(bias[at + columns.bias[8 * n + 2 * t + e]], kLog2E, score);
          }
        }
      }
    }
  };

  // Hides what a row does not see.
  auto mask = [&](float (&scores)[kRowTiles][kTiles][4]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (!(seen[m][i / 2] >> (2 * n + i % 2) & 1)) scores[m][n][i] = -INFINITY;
      }
    }
  };

  // Where a lane's half of 32 bytes is in its row of a chunk of columns.
  auto offset_of = [&](const Tile& tile, int chunk, const StreamedLane& at) {
    const int column = 16 * chunk + at.row;
    const int row = tile.line == 0 ? columns.row[column] : column < tile.line ? column : 0;
    return R::chunk_offset(tile.row + row, at.half);
  };

  // A tile goes through the products as a whole, or, where kAnySize, by those of its chunks of 16
  // columns that are in use.
  auto meet = [&](auto whole, const Step& s, const Tile& tile, int unsure, bool known,
                  uint32_t key) {
    constexpr int kChunks = kTiles / 2, kAtOnce = decltype(whole)::value ? kChunks : 1;
    if (!known && (scale_first || unsure != 0)) look(tile, unsure);
    const int chunks = decltype(whole)::value ? kChunks : used_chunks(tile);
    float scores[kRowTiles][kTiles][4];
#pragma unroll
    for (int c = 0; c < kChunks; c += kAtOnce) {
      if (c >= chunks) break;
      uint32_t offsets[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) offsets[i] = offset_of(tile, c + i, scores_lane(lane));
      float part[kRowTiles][2 * kAtOnce][4];
      find_scores<T, kHeadDim, kProducts>(part, query, key, offsets);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2 * kAtOnce; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) scores[m][2 * c + n][i] = part[m][n][i];
        }
      }
    }
    if (scale_first) scale_scores(scores, tile, chunks, s);
    if (unsure != 0) mask(scores);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      float shrink[2];
      softmax[m].step(scores[m], chunks, factor, shrink);
      if (__any_sync(~0u, shrink[0] != 1.f || shrink[1] != 1.f)) {
#pragma unroll
        for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out[m][j][i] *= shrink[i / 2];
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (c >= chunks) break;
      Weights<T> weights[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) weights[m].set(scores[m][2 * c], scores[m][2 * c + 1]);
      add_combination<T, kHeadDim, kProducts>(out, weights, key + map.stage_bytes,
                                              offset_of(tile, c, combine_lane(lane)), lane);
    }
  };

  auto finish = [&](const Step& s, uint32_t staging) {
    T* to = static_cast<T*>(arguments.out) + s.out;
    store_results<kRowTiles>(
        problem, own_rows, static_cast<float*>(arguments.lse) + s.lse, lane,
        [&](int m, auto& inverse, auto& lse) { softmax[m].finish(factor, inverse, lse); },
        [&](int m, const auto& inverse) {
          store_rows<T, kHeadDim>(out[m], inverse, staging + 16 * m * R::kBytes, own_rows + 16 * m,
                                  to, problem.heads * problem.value_dim, problem.value_dim, lane);
        });
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    if (s.first) {
      query.load(own_buffer(s) + own, lane);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        softmax[m] = RunningSoftmax();
#pragma unroll
        for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out[m][j][i] = 0.f;
        }
      }
    }
    // Values follow their keys.
    const uint32_t key = base + map.stage + 2 * buffer * map.stage_bytes;
    const bool known = step > 0 && work.warp[warp].only;
    Tiles tiles(sweep, work.warp[warp], s, work.view[step % kStepsKnown][warp], known);
    if (tiles.first(kBlock)) {
      do {
        const Tile& tile = tiles.tile();
        if (kAnySize && used_chunks(tile) < kTiles / 2)
          meet(std::false_type(), s, tile, tiles.unsure(), known, key);
        else
          meet(std::true_type(), s, tile, tiles.unsure(), known, key);
      } while (tiles.next(kBlock));
    }
    if (s.last) finish(s, own_buffer(s) + own);
  };

  run_steps(
      work.warp[warp].progress, steps, sweep, work, describe, find, load, load_own, [] {}, compute);
}

}  // namespace jax_na::cuda
