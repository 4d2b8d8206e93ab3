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
#include "cuda/tile/head.h"
#include "cuda/tile/load.h"
#include "cuda/tile/shared_map.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/store.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

template <int kHeadDim, int kRowTiles>
constexpr int kQueryGradientWarps = kHeadDim <= 64 && kRowTiles == 1 ? 16 : 8;

// Grid: boxes of all dilation groups, query heads, batch entries from `first_entry` on.
template <typename T, int kHeadDim, int kRowTiles, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps,
                                  kQueryGradientWarps<kHeadDim, kRowTiles> / kMaxWarps)
    query_gradient_kernel(const __grid_constant__ Backward arguments,
                          const __grid_constant__ Sweep sweep, const int64_t first_entry) {
  using R = Rows<T, kHeadDim>;
  constexpr bool kInRegisters = kRowTiles * R::kSteps <= 8;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap map(sweep, R::kBytes, 2, false, sizeof(Columns<kBlock>));
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
  const uint32_t query_at = base + map.stationary;
  const uint32_t dout_at = query_at + sweep.rows() * R::kBytes;
  const uint32_t own = warp * sweep.warp_rows() * R::kBytes;

  const int key_counts[] = {problem.axes[0].key_count, problem.axes[1].key_count,
                            problem.axes[2].key_count};
  const int64_t queries = problem.query_tokens();
  const int64_t scalars = offset_of(entry, queries, problem.heads, head, 1);
  const float* bias = bias_of(problem, arguments.bias, entry, head);
  const float scale = static_cast<float>(problem.scale);
  const float factor = static_cast<float>(problem.scale * 1.4426950408889634);

  Stationary<T, kHeadDim, kRowTiles, kInRegisters> query, dout;
  float lse[kRowTiles][2], delta[kRowTiles][2];  // lse in units of log2
  float dquery[kRowTiles][kHeadDim / 8][4] = {};

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

  // Two lanes go along each of 16 rows of dout, in shared memory, and of out.
  auto find_delta = [&] {
    const auto outs =
        Source<T>::of(arguments.out, entry, queries, problem.heads, head, problem.value_dim);
    float* to = static_cast<float*>(arguments.workspace) + scalars;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const int token = own_rows[16 * m + lane / 2].token;
      float sum = 0.f;
      if (token >= 0) {
        const T* out = outs.base + token * outs.stride;
        for (int chunk = lane % 2; chunk * R::kPerChunk < problem.value_dim; chunk += 2) {
          const uint32_t at =
              dout_at + R::chunk_offset(warp * sweep.warp_rows() + 16 * m + lane / 2, chunk);
          const uint4 a = ptx::load_shared_16(at);
          const uint4 b = *reinterpret_cast<const uint4*>(out + chunk * R::kPerChunk);
          sum += dot<T>(a.x, b.x) + dot<T>(a.y, b.y) + dot<T>(a.z, b.z) + dot<T>(a.w, b.w);
        }
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      float stored = INFINITY;  // a row that is no token has no weights
      if (token >= 0) {
        const int64_t at = static_cast<int64_t>(token) * problem.heads;
        sum -= static_cast<const float*>(arguments.dlse)[scalars + at];
        stored = static_cast<const float*>(arguments.lse)[scalars + at] * kLog2E;
        if (lane % 2 == 0) to[at] = sum;
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        delta[m][r] = __shfl_sync(~0u, sum, 2 * (lane / 4 + 8 * r));
        lse[m][r] = __shfl_sync(~0u, stored, 2 * (lane / 4 + 8 * r));
      }
    }
  };

  auto meet = [&](const Tile& tile, uint32_t key, uint32_t value) {
    const int chunks = ((tile.line > 0 ? tile.line : sweep.tile_size()) + 15) / 16;
    const bool with_bias = bias != nullptr && tile.line == 0;
    uint32_t seen[kRowTiles][2];
    int bias_at[kRowTiles][2];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const RowWork& row = own_rows[16 * m + 8 * r + lane / 4];
        seen[m][r] = ~0u;
        if (!tile.sure)
          seen[m][r] = tile.line > 0
                           ? first_columns(tile.line, t)
                           : seen_columns(columns, sweep, row, tile.origin, tile.nominal, t);
        bias_at[m][r] = row.bias + tile_bias(problem, tile.origin, 1);
      }
    }
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      const int column = 16 * c + lane % 16;
      const int row = tile.row + (tile.line > 0 ? column : columns.row[column]);
      float scores[kRowTiles][2][4] = {}, cotangents[kRowTiles][2][4] = {};
      add_scores<T, kHeadDim, kProducts>(scores, query, key + R::chunk_offset(row, lane / 16));
      add_scores<T, kHeadDim, kProducts>(cotangents, dout, value + R::chunk_offset(row, lane / 16));
      Weights<T> weights[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int r = i / 2, e = i % 2;
            const bool sees = seen[m][r] >> (4 * c + 2 * n + e) & 1;
            const int at = bias_at[m][r] + columns.bias[with_bias ? 16 * c + 8 * n + 2 * t + e : 0];
            float exponent = fmaf(scores[m][n][i], factor, -lse[m][r]);
            if (with_bias && sees) exponent = fmaf(bias[at], kLog2E, exponent);
            const float weight = sees ? ptx::exp2(exponent) : 0.f;
            const float dscore = sees ? weight * (cotangents[m][n][i] - delta[m][r]) : 0.f;
            cotangents[m][n][i] = dscore;
            if (with_bias && sees)
              atomicAdd(static_cast<float*>(arguments.dbias) +
                            (entry * problem.heads + head) * problem.bias_size() + at,
                        dscore);
          }
        }
        weights[m].set(cotangents[m][0], cotangents[m][1]);
      }
      add_combination<T, kHeadDim, kProducts>(dquery, weights, key, row, lane);
    }
  };

  auto compute = [&](int stage, int buffer) {
    if (stage == 0) {
      query.load(query_at + own, lane);
      dout.load(dout_at + own, lane);
      find_delta();
    }
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

  load_stationary<T, kHeadDim>(
      rows, sweep.rows(),
      Source<T>::of(arguments.query, entry, queries, problem.heads, head, problem.head_dim),
      query_at);
  load_stationary<T, kHeadDim>(
      rows, sweep.rows(),
      Source<T>::of(arguments.dout, entry, queries, problem.heads, head, problem.value_dim),
      dout_at);
  run_stages(
      windows + lines, sweep.buffers, load, [&] { find_columns(problem, sweep, 1, columns); },
      compute);

  T* to = static_cast<T*>(arguments.dquery) +
          offset_of(entry, queries, problem.heads, head, problem.head_dim);
  const float scales[2] = {scale, scale};
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
    store_rows<T, kHeadDim>(
        dquery[m], scales, query_at + own + 16 * m * R::kBytes, own_rows + 16 * m, to,
        static_cast<int64_t>(problem.heads) * problem.head_dim, problem.head_dim, lane);
}

}  // namespace jax_na::cuda
