// The gradient of the queries. Queries are stationary, as in the forward kernel, and each chunk of
// 16 keys is done with before the next: scores and their cotangents, the weights from the stored
// LSE, and the product with the keys.
//
// It also leaves delta = rowsum(dout * out) - dlse in the workspace, for the gradient of the keys,
// and the gradient of the bias.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/store.h"
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

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Columns<kBlock>& columns = *reinterpret_cast<Columns<kBlock>*>(shared + map.columns);
  RowWork* rows = reinterpret_cast<RowWork*>(shared + map.rows);
  Work& work = *reinterpret_cast<Work*>(shared + map.work);
  int* tokens = reinterpret_cast<int*>(shared + map.tokens);
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_columns(problem, sweep, 1, columns);
  const RowWork* own_rows = rows + warp * sweep.warp_rows();
  const uint32_t own = warp * sweep.warp_rows() * R::kBytes;

  const Stages& stages = work.stages;
  const int steps = own_items(static_cast<int>(problem.batch) * problem.heads) * stages.total;
  const float scale = static_cast<float>(problem.scale);
  const float factor = static_cast<float>(problem.scale * 1.4426950408889634);

  Stationary<T, kHeadDim, kRowTiles, kInRegisters> query, dout;
  float lse[kRowTiles][2], delta[kRowTiles][2];  // lse in units of log2
  float dquery[kRowTiles][kHeadDim / 8][4];

  auto describe = [&](int step) {
    if (threadIdx.x == 0)
      work.steps[step % kStepsKnown] =
          describe_step(problem, sweep, arguments.bias, stages, step, true, 1);
  };

  auto find = [&](int step, int table) {
    const Step& s = work.steps[step % kStepsKnown];
    const int key_counts[] = {problem.axes[0].key_count, problem.axes[1].key_count,
                              problem.axes[2].key_count};
    find_tokens(sweep, work, key_counts, s.origin, s.line, s.line_begin,
                tokens + table * sweep.stage_rows());
  };

  // The tensors of the streamed side have a row of `features` for each of `heads` heads.
  auto source = [&](const void* tensor, int64_t offset, int heads, int features) {
    return Source{static_cast<const char*>(tensor) + offset * static_cast<int64_t>(sizeof(T)),
                  heads * features * static_cast<int>(sizeof(T)), features};
  };

  // Where an item's queries are; dout follows them.
  auto own_buffer = [&](const Step& s) {
    return base + map.stationary +
           (sweep.buffers == 2 ? s.ordinal % 2 : 0) * 2 * map.stationary_bytes;
  };

  auto load = [&](int step, int table, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const int* stage_tokens = tokens + table * sweep.stage_rows();
    const uint32_t key_to = base + map.stage + 2 * buffer * map.stage_bytes;
    load_rows<T, kHeadDim, 2>(sweep.stage_rows(),
                              {source(s.window ? arguments.key : arguments.additional_keys, s.key,
                                      problem.kv_heads, problem.head_dim),
                               source(s.window ? arguments.value : arguments.additional_values,
                                      s.value, problem.kv_heads, problem.value_dim)},
                              {key_to, key_to + map.stage_bytes},
                              [&](int row) { return stage_tokens[row]; });
    if (s.first)
      load_rows<T, kHeadDim, 2>(sweep.rows(),
                                {source(arguments.query, s.query, problem.heads, problem.head_dim),
                                 source(arguments.dout, s.out, problem.heads, problem.value_dim)},
                                {own_buffer(s), own_buffer(s) + map.stationary_bytes},
                                [&](int row) { return rows[row].token; });
  };

  // Two lanes go along each of 16 rows of dout, in shared memory, and of out.
  auto find_delta = [&](const Step& s, uint32_t own_dout) {
    const T* outs = static_cast<const T*>(arguments.out) + s.out;
    const float* dlses = static_cast<const float*>(arguments.dlse) + s.lse;
    const float* lses = static_cast<const float*>(arguments.lse) + s.lse;
    float* to = static_cast<float*>(arguments.workspace) + s.lse;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const int token = own_rows[16 * m + lane / 2].token;
      float sum = 0.f;
      if (token >= 0) {
        const T* out = outs + static_cast<int64_t>(token) * problem.heads * problem.value_dim;
        for (int chunk = lane % 2; chunk * R::kPerChunk < problem.value_dim; chunk += 2) {
          const uint32_t at = own_dout + 16 * m * R::kBytes + R::chunk_offset(lane / 2, chunk);
          const uint4 a = ptx::load_shared_16(at);
          const uint4 b = *reinterpret_cast<const uint4*>(out + chunk * R::kPerChunk);
          sum += dot<T>(a.x, b.x) + dot<T>(a.y, b.y) + dot<T>(a.z, b.z) + dot<T>(a.w, b.w);
        }
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      float stored = INFINITY;  // a row that is no token has no weights
      if (token >= 0) {
        const int64_t at = static_cast<int64_t>(token) * problem.heads;
        sum -= dlses[at];
        stored = lses[at] * kLog2E;
        if (lane % 2 == 0) to[at] = sum;
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
  auto look = [&](const Tile& tile) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const RowWork& row = own_rows[16 * m + 8 * r + lane / 4];
        seen[m][r] = tile.line > 0
                         ? first_columns(tile.line, t)
                         : seen_columns(columns, sweep, row, tile.origin, tile.nominal, t);
      }
    }
  };

  auto meet = [&](const Tile& tile, bool known, uint32_t key, uint32_t value, const float* bias,
                  float* dbias) {
    const int chunks = ((tile.line > 0 ? tile.line : sweep.tile_size()) + 15) / 16;
    const bool with_bias = bias != nullptr && tile.line == 0;
    const int tile_at = with_bias ? tile_bias(problem, tile.origin, 1) : 0;
    if (!known) look(tile);
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      const int column = 16 * c + lane % 16;
      const int row = tile.row + (tile.line > 0 ? column : columns.row[column]);
      float scores[kRowTiles][2][4], cotangents[kRowTiles][2][4];
      find_scores<T, kHeadDim, kProducts>(scores, query, key + R::chunk_offset(row, lane / 16));
      find_scores<T, kHeadDim, kProducts>(cotangents, dout,
                                          value + R::chunk_offset(row, lane / 16));
      Weights<T> weights[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int r = i / 2, e = i % 2;
            const bool sees = seen[m][r] >> (4 * c + 2 * n + e) & 1;
            float exponent = fmaf(scores[m][n][i], factor, -lse[m][r]);
            const int at = with_bias ? own_rows[16 * m + 8 * r + lane / 4].bias + tile_at +
                                           columns.bias[16 * c + 8 * n + 2 * t + e]
                                     : 0;
            if (with_bias && sees) exponent = fmaf(bias[at], kLog2E, exponent);
            const float weight = sees ? ptx::exp2(exponent) : 0.f;
            const float dscore = sees ? weight * (cotangents[m][n][i] - delta[m][r]) : 0.f;
            cotangents[m][n][i] = dscore;
            if (with_bias && sees) atomicAdd(dbias + at, dscore);
          }
        }
        weights[m].set(cotangents[m][0], cotangents[m][1]);
      }
      add_combination<T, kHeadDim, kProducts>(dquery, weights, key, row, lane);
    }
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const uint32_t own_query = own_buffer(s) + own;
    if (s.first) {
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
    const uint32_t key = base + map.stage + 2 * buffer * map.stage_bytes;
    float* dbias = static_cast<float*>(arguments.dbias) + s.dbias;
    Tiles tiles(sweep, work.warp[warp], s.origin, s.line);
    Tile tile;
    while (tiles.next(tile, kBlock))
      meet(tile, step > 0 && stages.total == 1 && tiles.only(), key, key + map.stage_bytes, s.bias,
           dbias);
    if (!s.last) return;

    T* to = static_cast<T*>(arguments.dquery) + s.query;
    const float scales[2] = {scale, scale};
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
      store_rows<T, kHeadDim>(dquery[m], scales, own_query + 16 * m * R::kBytes, own_rows + 16 * m,
                              to, problem.heads * problem.head_dim, problem.head_dim, lane);
  };

  run_steps(steps, sweep.buffers, stages.total == 1, describe, find, load, compute);
}

}  // namespace jax_na::cuda
