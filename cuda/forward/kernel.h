// The fused forward kernel of every GPU since sm_80: a warp keeps the scores of its rows in
// registers, from the first product through the softmax to the second.
//
// A CTA loads its queries, then stage by stage the keys and values that any of them sees. For small
// windows one stage is all, and every warp picks its own neighborhood out of it; for large ones
// stages follow each other in two buffers, each a tile for all warps.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/head.h"
#include "cuda/tile/load.h"
#include "cuda/tile/shared_map.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/store.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Warps of a kernel that a multiprocessor has registers for.
template <int kHeadDim, int kRowTiles>
constexpr int kForwardWarps = kHeadDim <= 64 && kRowTiles == 1 ? 16 : 8;

// Grid: boxes of all dilation groups, query heads, batch entries from `first_entry` on.
template <typename T, int kHeadDim, int kRowTiles, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kForwardWarps<kHeadDim, kRowTiles> / kMaxWarps)
    forward_kernel(const __grid_constant__ Forward arguments, const __grid_constant__ Sweep sweep,
                   const int64_t first_entry) {
  using R = Rows<T, kHeadDim>;
  constexpr int kTiles = kBlock / 8;
  constexpr bool kQueryInRegisters = kRowTiles * R::kSteps <= 8;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap map(sweep, R::kBytes, 1, false, sizeof(Columns<kBlock>));
  Columns<kBlock>& columns = *reinterpret_cast<Columns<kBlock>*>(shared + map.columns);
  RowWork* rows = reinterpret_cast<RowWork*>(shared + map.rows);
  Work& work = *reinterpret_cast<Work*>(shared + map.work);
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const int head = blockIdx.y, kv_head = head / problem.group();
  const int64_t entry = first_entry + blockIdx.z;

  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  const RowWork* own_rows = rows + warp * sweep.warp_rows();
  const uint32_t own_query = base + map.stationary + warp * sweep.warp_rows() * R::kBytes;

  const int key_counts[] = {problem.axes[0].key_count, problem.axes[1].key_count,
                            problem.axes[2].key_count};
  const float* bias = bias_of(problem, arguments.bias, entry, head);
  // exp2(factor * score); where that would not do the scores are scaled first.
  const bool scale_first = bias != nullptr || problem.scale <= 0;
  const float scale = static_cast<float>(problem.scale * 1.4426950408889634);
  const float factor = scale_first ? 1.f : scale;

  Stationary<T, kHeadDim, kRowTiles, kQueryInRegisters> query;
  RunningSoftmax softmax[kRowTiles];
  float out[kRowTiles][kHeadDim / 8][4] = {};

  const Stages stages(sweep, work);
  const int line_rows = sweep.stage_rows();
  const int windows = stages.total();
  const int lines = (problem.additional + line_rows - 1) / line_rows;

  auto load = [&](int stage, int buffer) {
    const uint32_t key_to = base + map.stage + 2 * buffer * map.stage_bytes;
    const uint32_t value_to = key_to + map.stage_bytes;
    const bool window = stage < windows;
    const int64_t tokens = window ? problem.key_tokens() : problem.additional;
    const auto keys = Source<T>::of(window ? arguments.key : arguments.additional_keys, entry,
                                    tokens, problem.kv_heads, kv_head, problem.head_dim);
    const auto values = Source<T>::of(window ? arguments.value : arguments.additional_values, entry,
                                      tokens, problem.kv_heads, kv_head, problem.value_dim);
    if (window) {
      load_stage<T, kHeadDim>(sweep, work, key_counts, stages.origin(sweep, work, stage), keys,
                              key_to, values, value_to);
    } else {
      const int begin = (stage - windows) * line_rows;
      load_line<T, kHeadDim>(begin, min(problem.additional - begin, line_rows), keys, key_to,
                             values, value_to);
    }
  };

  // Adds the bias, scales, and hides what a row does not see.
  auto mask = [&](float (&scores)[kRowTiles][kTiles][4], const Tile& tile, int chunks) {
    uint32_t seen[kRowTiles][2];
    int bias_at[kRowTiles][2];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const RowWork& row = own_rows[16 * m + 8 * r + lane / 4];
        seen[m][r] = tile.line > 0
                         ? first_columns(tile.line, t)
                         : seen_columns(columns, sweep, row, tile.origin, tile.nominal, t);
        bias_at[m][r] = row.bias + tile_bias(problem, tile.origin, 1);
      }
    }
    if (scale_first) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        if (n / 2 >= chunks) break;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = 8 * n + 2 * t + e;
          const int offset = bias != nullptr && tile.line == 0 ? columns.bias[column] : 0;
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float& score = scores[m][n][2 * r + e];
              score *= scale;
              if (bias != nullptr && tile.line == 0 && (seen[m][r] >> (2 * n + e) & 1))
                score = fmaf(bias[bias_at[m][r] + offset], kLog2E, score);
            }
          }
        }
      }
    }
    if (tile.sure) return;
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

  auto meet = [&](const Tile& tile, uint32_t key, uint32_t value) {
    const int chunks = ((tile.line > 0 ? tile.line : sweep.tile_size()) + 15) / 16;
    float scores[kRowTiles][kTiles][4];
    int row[kTiles / 2];
#pragma unroll
    for (int c = 0; c < kTiles / 2; ++c) {
      if (c >= chunks) break;
      const int column = 16 * c + lane % 16;
      row[c] = tile.row + (tile.line > 0 ? column : columns.row[column]);
      float chunk[kRowTiles][2][4] = {};
      add_scores<T, kHeadDim, kProducts>(chunk, query, key + R::chunk_offset(row[c], lane / 16));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[m][2 * c][i] = chunk[m][0][i];
          scores[m][2 * c + 1][i] = chunk[m][1][i];
        }
      }
    }
    if (scale_first || !tile.sure) mask(scores, tile, chunks);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      float shrink[2];
      softmax[m].step(scores[m], chunks, factor, shrink);
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][j][i] *= shrink[i / 2];
      }
    }
#pragma unroll
    for (int c = 0; c < kTiles / 2; ++c) {
      if (c >= chunks) break;
      Weights<T> weights[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) weights[m].set(scores[m][2 * c], scores[m][2 * c + 1]);
      add_combination<T, kHeadDim, kProducts>(out, weights, value, row[c], lane);
    }
  };

  auto compute = [&](int stage, int buffer) {
    if (stage == 0) query.load(own_query, lane);
    const uint32_t key = base + map.stage + 2 * buffer * map.stage_bytes;
    StageOrigin origin{};
    int line = 0;
    if (stage < windows)
      origin = stages.origin(sweep, work, stage);
    else
      line = min(problem.additional - (stage - windows) * line_rows, line_rows);
    Tiles tiles(sweep, work.warp[warp], origin, line);
    Tile tile;
    while (tiles.next(tile, kBlock)) meet(tile, key, key + map.stage_bytes);
  };

  load_stationary<T, kHeadDim>(rows, sweep.rows(),
                               Source<T>::of(arguments.query, entry, problem.query_tokens(),
                                             problem.heads, head, problem.head_dim),
                               base + map.stationary);
  run_stages(
      windows + lines, sweep.buffers, load, [&] { find_columns(problem, sweep, 1, columns); },
      compute);

  T* results = static_cast<T*>(arguments.out) +
               offset_of(entry, problem.query_tokens(), problem.heads, head, problem.value_dim);
  float* lses = static_cast<float*>(arguments.lse) +
                offset_of(entry, problem.query_tokens(), problem.heads, head, 1);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    float inverse[2], lse[2];
    softmax[m].finish(factor, inverse, lse);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = own_rows[16 * m + 8 * r + lane / 4].token;
      if (t == 0 && token >= 0) lses[static_cast<int64_t>(token) * problem.heads] = lse[r];
    }
    store_rows<T, kHeadDim>(out[m], inverse, own_query + 16 * m * R::kBytes, own_rows + 16 * m,
                            results, static_cast<int64_t>(problem.heads) * problem.value_dim,
                            problem.value_dim, lane);
  }
}

}  // namespace jax_na::cuda
