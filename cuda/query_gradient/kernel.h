// The gradient of the queries. Queries are stationary, as in the forward kernel, and few chunks of
// 16 keys are done with before the next: scores and their cotangents, the weights from the stored
// LSE, and the product with the keys.
//
// It also leaves delta = rowsum(dout * out) - dlse in the workspace, and behind it the LSE in units
// of log2, for the gradient of the keys; and the gradient of the bias.
#pragma once

#include <cstdint>

#include "cuda/bias_sums.h"
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

template <typename T, int kHeadDim, int kRowTiles>
constexpr int kQueryGradientWarps = sizeof(T) == 2 && kHeadDim <= 64 && kRowTiles == 1 ? 16 : 8;

// Grid: boxes of all dilation groups, and CTAs that share the items of a box.
template <typename T, int kHeadDim, int kRowTiles, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps,
                                  kQueryGradientWarps<T, kHeadDim, kRowTiles> / kMaxWarps)
    query_gradient_kernel(const __grid_constant__ Backward arguments,
                          const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  constexpr bool kInRegisters = kRowTiles * R::kSteps <= 8;
  constexpr int kTiles = kBlock / 8;
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

  const int all_items = static_cast<int>(problem.batch) * problem.heads;
  if (sweep.at_once) {
    const int64_t queries = problem.query_rows();
    const int64_t keys = problem.key_rows();
    prefetch_first<T, 5>({{arguments.query, queries * problem.head_dim},
                          {arguments.key, keys * problem.head_dim},
                          {arguments.value, keys * problem.value_dim},
                          {arguments.out, queries * problem.value_dim},
                          {arguments.dout, queries * problem.value_dim}},
                         all_items, sweep.buffers);
  }
  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_places(sweep, tables.places);
  const RowWork* own_rows = rows + warp * sweep.warp_rows();
  const uint32_t own = warp * sweep.warp_rows() * R::kBytes;

  const Stages& stages = work.stages;
  const int steps = own_items(all_items) * stages.total;
  const float scale = static_cast<float>(problem.scale);
  const float factor = static_cast<float>(problem.scale * 1.4426950408889634);

  Stationary<T, kHeadDim, kRowTiles, kInRegisters> query, dout;
  float lse[kRowTiles][2], delta[kRowTiles][2];  // lse in units of log2
  float dquery[kRowTiles][kHeadDim / 8][4];

  auto describe = [&](int index) {
    describe_for_warps<Side::kQueries, kBlock>(problem, sweep, arguments.bias, 1, index, tables);
  };
  auto find = [&](int step, int table) { find_step_tokens(sweep, tables, step, table); };

  // Where an item's queries are; dout follows them.
  auto own_buffer = [&](const Step& s) {
    return base + map.stationary +
           (sweep.own_buffers == 2 ? s.ordinal % 2 : 0) * 2 * map.stationary_bytes;
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
    load_rows<T, kHeadDim, 2>(sweep.rows,
                              {source<T>(arguments.query, s.query, problem.heads, problem.head_dim),
                               source<T>(arguments.dout, s.out, problem.heads, problem.value_dim)},
                              {own_buffer(s), own_buffer(s) + map.stationary_bytes},
                              [&](int row) { return rows[row].token; });
  };

  // Two lanes go along each of 16 rows of dout, in shared memory, and of out.
  auto find_delta = [&](const Step& s, uint32_t own_dout) {
    const T* outs = static_cast<const T*>(arguments.out) + s.out;
    const float* dlses = static_cast<const float*>(arguments.dlse) + s.lse;
    const float* lses = static_cast<const float*>(arguments.lse) + s.lse;
    float* delta_to = static_cast<float*>(arguments.workspace) + s.lse;
    float* lse_to = delta_to + problem.query_rows();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const int token = own_rows[16 * m + lane / 2].token;
      const int64_t at = static_cast<int64_t>(token) * problem.heads;
      float sum = 0.f, of_dlse = 0.f;
      float stored = INFINITY;  // a row that is no token has no weights
      if (token >= 0) {
        // Everything is on its way before any of it is waited for.
        const float of_lse = lses[at];
        of_dlse = dlses[at];
        const T* out = outs + at * problem.value_dim;
        constexpr int kTogether = R::kChunks % 8 == 0 ? 4 : 2;
        for (int begin = lane % 2; begin * R::kPerChunk < problem.value_dim;
             begin += 2 * kTogether) {
          uint4 b[kTogether];
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
            const int chunk = begin + 2 * i;
            b[i] = {0, 0, 0, 0};
            if (chunk * R::kPerChunk < problem.value_dim)
              b[i] = *reinterpret_cast<const uint4*>(out + chunk * R::kPerChunk);
          }
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
            const uint4 a = ptx::load_shared_16(own_dout + 16 * m * R::kBytes +
                                                R::chunk_offset(lane / 2, begin + 2 * i));
            sum += dot<T>(a.x, b[i].x) + dot<T>(a.y, b[i].y) + dot<T>(a.z, b[i].z) +
                   dot<T>(a.w, b[i].w);
          }
        }
        // Nor has one that sees nothing but a bias of -inf.
        if (of_lse != -INFINITY) stored = of_lse * kLog2E;
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum -= of_dlse;
      if (token >= 0 && lane % 2 == 0) {
        delta_to[at] = sum;
        lse_to[at] = stored;
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        delta[m][r] = __shfl_sync(~0u, sum, 2 * (lane / 4 + 8 * r));
        lse[m][r] = __shfl_sync(~0u, stored, 2 * (lane / 4 + 8 * r));
      }
    }
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

  // Of chunks c .. c + kAtOnce - 1; nobody sees a chunk behind the last.
  auto sees_column = [&](int m, int c, int n, int i) {
    return (seen[m][i / 2] >> (4 * c + 2 * n + i % 2) & 1) && 2 * c + n < kTiles;
  };

  // Scales, and adds the bias.
  auto scale_scores = [&](float (&scores)[kRowTiles][2 * kAtOnce][4], const Step& s,
                          const Tile& tile, int c) {
    const int tile_at = tile_bias(problem, tile.origin, 1);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = own_rows[16 * m + 8 * (i / 2) + lane / 4].bias + tile_at;
#pragma unroll
        for (int n = 0; n < 2 * kAtOnce; ++n) {
          const int column = 16 * c + 8 * n + 2 * t + i % 2;
          scores[m][n][i] *= factor;
          if (sees_column(m, c, n, i))
            scores[m][n][i] = fmaf(s.bias[at + columns.bias[column]], kLog2E, scores[m][n][i]);
        }
      }
    }
  };

  auto add_bias_gradient = [&](const float (&dscores)[kRowTiles][2 * kAtOnce][4], const Step& s,
                               const Tile& tile, int c) {
    unsigned long long* sums = BiasSums::table(arguments.dbias) + s.dbias;
    const float sums_factor = static_cast<const BiasSums*>(arguments.dbias)->factor;
    const int tile_at = tile_bias(problem, tile.origin, 1);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = own_rows[16 * m + 8 * (i / 2) + lane / 4].bias + tile_at;
#pragma unroll
        for (int n = 0; n < 2 * kAtOnce; ++n) {
          const int column = 16 * c + 8 * n + 2 * t + i % 2;
          if (sees_column(m, c, n, i))
            atomicAdd(
                sums + at + columns.bias[column],
                static_cast<unsigned long long>(__float2ll_rn(dscores[m][n][i] * sums_factor)));
        }
      }
    }
  };

  auto meet = [&](const Step& s, const Tile& tile, int unsure, bool known, uint32_t key) {
    const int chunks = ((tile.line > 0 ? tile.line : sweep.tile_size) + 15) / 16;
    const bool with_bias = problem.bias_batch > 0 && tile.line == 0;
    if (!known) look(tile, unsure);
#pragma unroll 1
    for (int c = 0; c < chunks; c += kAtOnce) {
      // Nobody sees a chunk too many.
      auto offset_of = [&](int j, const StreamedLane& at) {
        const int column = 16 * (c + j < chunks ? c + j : c) + at.row;
        return R::chunk_offset(tile.row + (tile.line > 0 ? column : columns.row[column]), at.half);
      };
      uint32_t offsets[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) offsets[j] = offset_of(j, scores_lane(lane));
      float scores[kRowTiles][2 * kAtOnce][4], cotangents[kRowTiles][2 * kAtOnce][4];
      find_scores<T, kHeadDim, kProducts>(scores, query, key, offsets);
      find_scores<T, kHeadDim, kProducts>(cotangents, dout, key + map.stage_bytes, offsets);
      if (with_bias) scale_scores(scores, s, tile, c);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2 * kAtOnce; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int r = i / 2;
            const bool sees = sees_column(m, c, n, i);
            const float exponent = fmaf(scores[m][n][i], with_bias ? 1.f : factor, -lse[m][r]);
            float& dscore = cotangents[m][n][i];
            dscore = sees ? ptx::exp2(exponent) * (dscore - delta[m][r]) : 0.f;
          }
        }
      }
      if (with_bias) add_bias_gradient(cotangents, s, tile, c);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        Weights<T> weights[kRowTiles];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
          weights[m].set(cotangents[m][2 * j], cotangents[m][2 * j + 1]);
        add_combination<T, kHeadDim, kProducts>(dquery, weights, key,
                                                offset_of(j, combine_lane(lane)), lane);
      }
    }
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    if (s.first) {
      const uint32_t own_query = own_buffer(s) + own;
      query.load(own_query, lane);
      dout.load(own_query + map.stationary_bytes, lane);
      find_delta(s, own_query + map.stationary_bytes);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) dquery[m][j][i] = 0.f;
        }
      }
    }
    // Values follow their keys.
    const uint32_t key = base + map.stage + 2 * buffer * map.stage_bytes;
    const bool known = step > 0 && work.warp[warp].only;
    Tiles tiles(sweep, work.warp[warp], s, work.view[step % kStepsKnown][warp], known);
    if (tiles.first(kBlock)) {
      do {
        meet(s, tiles.tile(), tiles.unsure(), known, key);
      } while (tiles.next(kBlock));
    }
    if (!s.last) return;

    const uint32_t staging = own_buffer(s) + own;
    T* to = static_cast<T*>(arguments.dquery) + s.query;
    const float scales[2] = {scale, scale};
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
      store_rows<T, kHeadDim>(dquery[m], scales, staging + 16 * m * R::kBytes, own_rows + 16 * m,
                              to, problem.heads * problem.head_dim, problem.head_dim, lane);
  };

  run_steps(
      work.warp[warp].progress, steps, sweep, work, describe, find, load, load_own,
      [&] { find_columns(problem, sweep, 1, columns); }, compute);
}

}  // namespace jax_na::cuda
