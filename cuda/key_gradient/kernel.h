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
#include "cuda/tile/head.h"
#include "cuda/tile/load.h"
#include "cuda/tile/shared_map.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/store.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

template <int kHeadDim>
constexpr int kKeyGradientWarps = kHeadDim <= 64 ? 16 : 8;

// The features of dkey and dvalue that one CTA has registers for.
template <int kHeadDim>
constexpr int kKeyGradientFeatures = kHeadDim <= 128 ? kHeadDim : kHeadDim / 2;

// Grid: boxes of all dilation groups, key heads times parts of their features, batch entries from
// `first_entry` on.
template <typename T, int kHeadDim, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kKeyGradientWarps<kHeadDim> / kMaxWarps)
    key_gradient_kernel(const __grid_constant__ Backward arguments,
                        const __grid_constant__ Sweep sweep, const int64_t first_entry) {
  using R = Rows<T, kHeadDim>;
  constexpr int kFeatures = kKeyGradientFeatures<kHeadDim>;
  constexpr int kParts = kHeadDim / kFeatures;
  constexpr bool kInRegisters = R::kSteps <= 4;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap map(sweep, R::kBytes, 2, true, sizeof(Columns<kBlock>));
  Columns<kBlock>& columns = *reinterpret_cast<Columns<kBlock>*>(shared + map.columns);
  RowWork* rows = reinterpret_cast<RowWork*>(shared + map.rows);
  Work& work = *reinterpret_cast<Work*>(shared + map.work);
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const int kv_head = blockIdx.y / kParts, first = blockIdx.y % kParts * kFeatures;
  const int64_t entry = first_entry + blockIdx.z;

  find_work<Side::kKeys>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  const RowWork* own_rows = rows + 16 * warp;
  const uint32_t key_at = base + map.stationary;
  const uint32_t value_at = key_at + sweep.rows() * R::kBytes;
  const uint32_t own = 16 * warp * R::kBytes;

  const int query_counts[] = {problem.axes[0].query_count, problem.axes[1].query_count,
                              problem.axes[2].query_count};
  const int64_t queries = problem.query_tokens(), keys = problem.key_tokens();
  const float scale = static_cast<float>(problem.scale);
  const float factor = static_cast<float>(problem.scale * 1.4426950408889634);

  Stationary<T, kHeadDim, 1, kInRegisters> key, value;
  float dkey[1][kFeatures / 8][4] = {}, dvalue[1][kFeatures / 8][4] = {};

  const Stages stages(sweep, work);
  const int windows = stages.total();
  auto head_of = [&](int stage) { return kv_head * problem.group() + stage / windows; };

  auto load = [&](int stage, int buffer) {
    const int head = head_of(stage);
    const StageOrigin origin = stages.origin(sweep, work, stage % windows);
    const uint32_t query_to = base + map.stage + 2 * buffer * map.stage_bytes;
    load_stage<T, kHeadDim>(
        sweep, work, query_counts, origin,
        Source<T>::of(arguments.query, entry, queries, problem.heads, head, problem.head_dim),
        query_to,
        Source<T>::of(arguments.dout, entry, queries, problem.heads, head, problem.value_dim),
        query_to + map.stage_bytes);
    const int64_t scalars = offset_of(entry, queries, problem.heads, head, 1);
    load_scalars(sweep, work, query_counts, origin,
                 static_cast<const float*>(arguments.lse) + scalars,
                 static_cast<const float*>(arguments.workspace) + scalars, problem.heads,
                 base + map.scalars + 8 * buffer * sweep.stage_rows());
  };

  auto meet = [&](const Tile& tile, const float* bias, uint32_t query, uint32_t dout,
                  const float2* scalars) {
    const int chunks = (sweep.tile_size() + 15) / 16;
    uint32_t seen[2] = {~0u, ~0u};
    int bias_at[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowWork& row = own_rows[8 * r + lane / 4];
      if (!tile.sure) seen[r] = seen_columns(columns, sweep, row, tile.origin, tile.nominal, t);
      bias_at[r] = row.bias + tile_bias(problem, tile.origin, -1);
    }
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      const int row = tile.row + columns.row[16 * c + lane % 16];
      float scores[1][2][4] = {}, cotangents[1][2][4] = {};
      add_scores<T, kHeadDim, kProducts>(scores, key, query + R::chunk_offset(row, lane / 16));
      add_scores<T, kHeadDim, kProducts>(cotangents, value, dout + R::chunk_offset(row, lane / 16));
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = 16 * c + 8 * n + 2 * t + e;
          const float2 of_query = scalars[tile.row + columns.row[column]];  // lse, delta
          const float lse = of_query.x * kLog2E;
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const bool sees = seen[r] >> (4 * c + 2 * n + e) & 1;
            float exponent = fmaf(scores[0][n][2 * r + e], factor, -lse);
            if (bias != nullptr && sees)
              exponent = fmaf(bias[bias_at[r] + columns.bias[column]], kLog2E, exponent);
            const float weight = sees ? ptx::exp2(exponent) : 0.f;
            scores[0][n][2 * r + e] = weight;
            float& dscore = cotangents[0][n][2 * r + e];
            dscore = sees ? weight * (dscore - of_query.y) : 0.f;
          }
        }
      }
      Weights<T> weights[1];
      weights[0].set(scores[0][0], scores[0][1]);
      add_combination<T, kHeadDim, kProducts>(dvalue, weights, dout, row, lane, first);
      weights[0].set(cotangents[0][0], cotangents[0][1]);
      add_combination<T, kHeadDim, kProducts>(dkey, weights, query, row, lane, first);
    }
  };

  auto compute = [&](int stage, int buffer) {
    if (stage == 0) {
      key.load(key_at + own, lane);
      value.load(value_at + own, lane);
    }
    const uint32_t query = base + map.stage + 2 * buffer * map.stage_bytes;
    const float* bias = bias_of(problem, arguments.bias, entry, head_of(stage));
    const float2* scalars =
        reinterpret_cast<const float2*>(shared + map.scalars) + buffer * sweep.stage_rows();
    const StageOrigin origin = stages.origin(sweep, work, stage % windows);
    Tiles tiles(sweep, work.warp[warp], origin, 0);
    Tile tile;
    while (tiles.next(tile, kBlock)) meet(tile, bias, query, query + map.stage_bytes, scalars);
  };

  load_stationary<T, kHeadDim>(
      rows, sweep.rows(),
      Source<T>::of(arguments.key, entry, keys, problem.kv_heads, kv_head, problem.head_dim),
      key_at);
  load_stationary<T, kHeadDim>(
      rows, sweep.rows(),
      Source<T>::of(arguments.value, entry, keys, problem.kv_heads, kv_head, problem.value_dim),
      value_at);
  run_stages(
      windows * problem.group(), sweep.buffers, load,
      [&] { find_columns(problem, sweep, -1, columns); }, compute);

  auto store = [&](const float (&sums)[kFeatures / 8][4], float factor_of_sums, void* tensor,
                   uint32_t staging, int features) {
    T* to = static_cast<T*>(tensor) + offset_of(entry, keys, problem.kv_heads, kv_head, features);
    const float factors[2] = {factor_of_sums, factor_of_sums};
    store_rows<T, kFeatures>(sums, factors, staging, own_rows, to + first,
                             static_cast<int64_t>(problem.kv_heads) * features, features - first,
                             lane);
  };
  store(dkey[0], scale, arguments.dkey, key_at + own, problem.head_dim);
  store(dvalue[0], 1.f, arguments.dvalue, value_at + own, problem.value_dim);
}

}  // namespace jax_na::cuda
