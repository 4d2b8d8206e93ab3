// The gradients of the keys and values. Keys are stationary and the queries that see them stream
// past, with their cotangents, LSE and delta; a CTA goes through all query heads that share its
// key head. No two CTAs write the same element, so the result does not depend on their order.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/prefetch.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/steps.h"
#include "cuda/tile/store.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

template <typename T, int kHeadDim>
constexpr int kKeyGradientWarps = sizeof(T) == 2 && kHeadDim <= 64 ? 16 : 8;

// The features of dkey and dvalue that one CTA has registers for.
template <int kHeadDim>
constexpr int kKeyGradientFeatures = kHeadDim <= 128 ? kHeadDim : kHeadDim / 2;

// Grid: boxes of all dilation groups, and CTAs that share the items of a box. Items are key heads,
// times the parts of their features.
template <typename T, int kHeadDim, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kKeyGradientWarps<T, kHeadDim> / kMaxWarps)
    key_gradient_kernel(const __grid_constant__ Backward arguments,
                        const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  constexpr int kFeatures = kKeyGradientFeatures<kHeadDim>;
  constexpr int kParts = kHeadDim / kFeatures;
  constexpr bool kInRegisters = R::kSteps <= (sizeof(T) == 2 ? 2 : 4);
  constexpr int kAtOnce = kChunksAtOnce<T, kHeadDim>;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Columns<kBlock>& columns = *reinterpret_cast<Columns<kBlock>*>(shared + map.columns);
  const CtaTables tables(shared, map);
  RowWork* rows = tables.rows;
  Work& work = tables.work;
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  const int all_items = static_cast<int>(problem.batch) * problem.kv_heads * kParts;
  if (sweep.at_once) {
    const int64_t queries = problem.query_rows();
    const int64_t keys = problem.key_rows();
    prefetch_first<T, 4>({{arguments.query, queries * problem.head_dim},
                          {arguments.key, keys * problem.head_dim},
                          {arguments.value, keys * problem.value_dim},
                          {arguments.dout, queries * problem.value_dim}},
                         all_items, sweep.buffers);
  }
  find_work<Side::kKeys>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_places(sweep, tables.places);
  const RowWork* own_rows = rows + 16 * warp;
  const uint32_t own = 16 * warp * R::kBytes;

  const Stages& stages = work.stages;
  const int steps = own_items(all_items) * stages.total * sweep.group;
  // Turns scores into exponents of 2; with a bias scale_scores does it.
  const float factor =
      problem.bias_batch > 0 ? 1.f : static_cast<float>(problem.scale * 1.4426950408889634);

  Stationary<T, kHeadDim, 1, kInRegisters> key, value;
  float dkey[1][kFeatures / 8][4], dvalue[1][kFeatures / 8][4];

  // The stages of all query heads of a key head follow each other.
  auto describe = [&](int index) {
    describe_for_warps<Side::kKeys, kBlock>(problem, sweep, arguments.bias, kParts, index, tables);
  };
  auto find = [&](int step, int table) { find_step_tokens(sweep, tables, step, table); };

  // Where an item's keys are; its values follow them.
  auto own_buffer = [&](const Step& s) {
    return base + map.stationary +
           (sweep.own_buffers == 2 ? s.ordinal % 2 : 0) * 2 * map.stationary_bytes;
  };

  auto load = [&](int step, int table, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const int* stage_tokens = tables.tokens + table * sweep.stage_rows;
    const uint32_t query_to = base + map.stage + 2 * buffer * map.stage_bytes;
    load_rows<T, kHeadDim, 2>(sweep.stage_rows,
                              {source<T>(arguments.query, s.query, problem.heads, problem.head_dim),
                               source<T>(arguments.dout, s.out, problem.heads, problem.value_dim)},
                              {query_to, query_to + map.stage_bytes},
                              [&](int row) { return stage_tokens[row]; });
    load_scalars(stage_tokens, sweep.stage_rows, static_cast<const float*>(arguments.lse) + s.lse,
                 static_cast<const float*>(arguments.workspace) + s.lse, problem.heads,
                 base + map.scalars + 8 * buffer * sweep.stage_rows);
  };

  auto load_own = [&](int step) {
    const Step& s = work.steps[step % kStepsKnown];
    load_rows<T, kHeadDim, 2>(
        sweep.rows,
        {source<T>(arguments.key, s.key, problem.kv_heads, problem.head_dim),
         source<T>(arguments.value, s.value, problem.kv_heads, problem.value_dim)},
        {own_buffer(s), own_buffer(s) + map.stationary_bytes},
        [&](int row) { return rows[row].token; });
  };

  // What each row sees of a tile, as bits. They stay while a warp has but one tile.
  uint32_t seen[2];
  auto look = [&](const Tile& tile, int unsure) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      seen[r] = seen_columns(columns, sweep, own_rows[8 * r + lane / 4], tile, unsure, t);
  };

  // Of chunks c .. c + kAtOnce - 1; nobody sees a chunk behind the last.
  auto sees_column = [&](int c, int n, int i) {
    return (seen[i / 2] >> (4 * c + 2 * n + i % 2) & 1) && 2 * c + n < kBlock / 8;
  };

  // Scales, and adds the bias.
  auto scale_scores = [&](float (&scores)[2 * kAtOnce][4], const Step& s, const Tile& tile, int c) {
    const int tile_at = tile_bias(problem, tile.origin, -1);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = own_rows[8 * (i / 2) + lane / 4].bias + tile_at;
#pragma unroll
      for (int n = 0; n < 2 * kAtOnce; ++n) {
        const int column = 16 * c + 8 * n + 2 * t + i % 2;
        scores[n][i] *= static_cast<float>(problem.scale * 1.4426950408889634);
        if (sees_column(c, n, i))
          scores[n][i] = fmaf(s.bias[at + columns.bias[column]], kLog2E, scores[n][i]);
      }
    }
  };

  auto meet = [&](const Step& s, const Tile& tile, int unsure, bool known, uint32_t query,
                  const float2* scalars) {
    const int chunks = (sweep.tile_size + 15) / 16;
    const int first = kParts == 1 ? 0 : s.part * kFeatures;
    const uint32_t dout = query + map.stage_bytes;
    if (!known) look(tile, unsure);
#pragma unroll 1
    for (int c = 0; c < chunks; c += kAtOnce) {
      // Nobody sees a chunk too many.
      auto offset_of = [&](int j, const StreamedLane& at) {
        const int column = 16 * (c + j < chunks ? c + j : c) + at.row;
        return R::chunk_offset(tile.row + columns.row[column], at.half);
      };
      uint32_t offsets[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) offsets[j] = offset_of(j, scores_lane(lane));
      float scores[1][2 * kAtOnce][4], cotangents[1][2 * kAtOnce][4];
      find_scores<T, kHeadDim, kProducts>(scores, key, query, offsets);
      find_scores<T, kHeadDim, kProducts>(cotangents, value, dout, offsets);
      if (problem.bias_batch > 0) scale_scores(scores[0], s, tile, c);
#pragma unroll
      for (int n = 0; n < 2 * kAtOnce; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          // A chunk behind the last has columns that nobody sees.
          const int column = min(16 * c + 8 * n + 2 * t + e, kBlock - 1);
          const float2 of_query =
              scalars[tile.row + columns.row[column]];  // lse in units of log2, delta
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float& score = scores[0][n][2 * r + e];
            float& dscore = cotangents[0][n][2 * r + e];
            const bool sees = sees_column(c, n, 2 * r + e);
            score = sees ? ptx::exp2(fmaf(score, factor, -of_query.x)) : 0.f;
            dscore = sees ? score * (dscore - of_query.y) : 0.f;
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const uint32_t offset = offset_of(j, combine_lane(lane));
        Weights<T> weights[1];
        weights[0].set(scores[0][2 * j], scores[0][2 * j + 1]);
        add_combination<T, kHeadDim, kProducts>(dvalue, weights, dout, offset, lane, first);
        weights[0].set(cotangents[0][2 * j], cotangents[0][2 * j + 1]);
        add_combination<T, kHeadDim, kProducts>(dkey, weights, query, offset, lane, first);
      }
    }
  };

  auto store = [&](const float (&sums)[kFeatures / 8][4], float factor_of_sums, void* tensor,
                   int64_t offset, uint32_t staging, int features, int first) {
    const float factors[2] = {factor_of_sums, factor_of_sums};
    store_rows<T, kFeatures>(sums, factors, staging, own_rows,
                             static_cast<T*>(tensor) + offset + first, problem.kv_heads * features,
                             features - first, lane);
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    if (s.first) {
      key.load(own_buffer(s) + own, lane);
      value.load(own_buffer(s) + own + map.stationary_bytes, lane);
#pragma unroll
      for (int j = 0; j < kFeatures / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) dkey[0][j][i] = dvalue[0][j][i] = 0.f;
      }
    }
    const uint32_t query = base + map.stage + 2 * buffer * map.stage_bytes;
    const float2* scalars =
        reinterpret_cast<const float2*>(shared + map.scalars) + buffer * sweep.stage_rows;
    const bool known = step > 0 && work.warp[warp].only;
    Tiles tiles(sweep, work.warp[warp], s, work.view[step % kStepsKnown][warp], known);
    if (tiles.first(kBlock)) {
      do {
        meet(s, tiles.tile(), tiles.unsure(), known, query, scalars);
      } while (tiles.next(kBlock));
    }
    if (!s.last) return;
    const int first = kParts == 1 ? 0 : s.part * kFeatures;
    const uint32_t staging = own_buffer(s) + own;
    store(dkey[0], static_cast<float>(problem.scale), arguments.dkey, s.key, staging,
          problem.head_dim, first);
    store(dvalue[0], 1.f, arguments.dvalue, s.value, staging + map.stationary_bytes,
          problem.value_dim, first);
  };

  run_steps(
      work.warp[warp].progress, steps, sweep, work, describe, find, load, load_own,
      [&] { find_columns(problem, sweep, -1, columns); }, compute);
}

}  // namespace jax_na::cuda
