// Values combined with the weights of every query's window: matrix products of weights, gathered
// from the slots of each query's own window, with the values that any query of a box sees.
#pragma once

#include <cstdint>

#include "cuda/gemm/gather.h"
#include "cuda/gemm/gemm.h"
#include "cuda/gemm/slots.h"
#include "cuda/plan.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/store.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// CTAs that a multiprocessor has registers for.
template <int kHeadDim, Products kProducts>
constexpr int kCombinationCtas = kHeadDim <= (kProducts == Products::kSplit ? 64 : 128) ? 2 : 1;

// Chunks of 16 columns whose weights are gathered at a time.
template <typename T, int kHeadDim>
constexpr int kChunksAhead = (kHeadDim <= 64 ? 8 : 4) / static_cast<int>(sizeof(T));

// Grid: boxes of all dilation groups, and CTAs that share the items of a box. The plan counts two
// tensors on either side; here one is streamed, of twice the bytes, and the stationary rows are
// those of the results, on their way to global memory.
template <typename T, int kHeadDim, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kCombinationCtas<kHeadDim, kProducts>)
    combine_kernel(const __grid_constant__ Combination arguments,
                   const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  using Tables = SlotTables<kBlock, 16 * kMaxWarps>;
  constexpr int kAhead = kChunksAhead<T, kHeadDim>;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Tables& tables = *reinterpret_cast<Tables*>(shared + map.columns);
  RowWork* rows = reinterpret_cast<RowWork*>(shared + map.rows);
  Work& work = *reinterpret_cast<Work*>(shared + map.work);
  int* tokens = reinterpret_cast<int*>(shared + map.tokens);
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_columns(problem, sweep, 1, tables.columns);
  find_row_slots<Side::kQueries>(problem, sweep, work, tables.row_slots);
  find_column_slots<kBlock>(problem, sweep, tables.column_slots);
  const RowWork* own_rows = rows + 16 * warp;
  const int* own_slots = tables.row_slots + 16 * warp;

  const Stages& stages = work.stages;
  const int steps = own_items(static_cast<int>(problem.batch) * problem.heads) * stages.total;
  const int window = static_cast<int>(window_slots(problem));

  const Word<T>* from[2];  // slot 0 of each row
  float sums[1][kHeadDim / 8][4];

  auto describe = [&](int step) {
    if (threadIdx.x == 0)
      work.steps[step % kStepsKnown] =
          describe_step(problem, sweep, nullptr, stages, step, true, 1);
  };

  auto find = [&](int step, int table) {
    const Step& s = work.steps[step % kStepsKnown];
    const int key_counts[] = {problem.axes[0].key_count, problem.axes[1].key_count,
                              problem.axes[2].key_count};
    find_tokens(sweep, work, key_counts, s.origin, s.line, s.line_begin,
                tokens + table * sweep.stage_rows());
  };

  auto load = [&](int step, int table, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const int* stage_tokens = tokens + table * sweep.stage_rows();
    const void* tensor = s.window ? arguments.from : arguments.additional;
    load_rows<T, kHeadDim, 1>(
        sweep.stage_rows(),
        {Source{static_cast<const char*>(tensor) + s.value * static_cast<int64_t>(sizeof(T)),
                problem.kv_heads * problem.value_dim * static_cast<int>(sizeof(T)),
                problem.value_dim}},
        {base + map.stage + 2 * buffer * map.stage_bytes},
        [&](int row) { return stage_tokens[row]; });
  };

  // What each row sees of a tile, as bits. They stay while a warp has but one tile.
  uint32_t seen[2];
  auto look = [&](const Tile& tile) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowWork& row = own_rows[8 * r + lane / 4];
      seen[r] = tile.line > 0
                    ? (row.token >= 0 ? first_columns(tile.line, t) : 0)
                    : seen_columns(tables.columns, sweep, row, tile.origin, tile.nominal, t);
    }
  };

  auto meet = [&](const Tile& tile, bool known, uint32_t value, const Step& s) {
    if (!known) look(tile);
    const int chunks = ((tile.line > 0 ? tile.line : sweep.tile_size()) + 15) / 16;
    const int tile_slot =
        tile.line > 0 ? window + s.line_begin + tile.row : slot_number(problem, tile.origin);
    int row_slot[2];
#pragma unroll
    for (int r = 0; r < 2; ++r)
      row_slot[r] = tile_slot + (tile.line > 0 ? 0 : own_slots[8 * r + lane / 4]);
#pragma unroll 1
    for (int first = 0; first < chunks; first += kAhead) {
      // The weights of several chunks are on their way before the first is needed.
      Weights<T> weights[kAhead][1];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        gather<T>(weights[i][0], [&](int n, int r, int e) -> uint32_t {
          const int pair = 8 * (first + i) + 4 * n, column = 2 * pair + 2 * t + e;
          if (first + i >= chunks || !(seen[r] >> (pair / 2 + e) & 1)) return 0;
          return from[r][row_slot[r] + (tile.line > 0 ? column : tables.column_slots[column])];
        });
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i >= chunks) break;
        const int column = 16 * (first + i) + lane % 16;
        const int row = tile.row + (tile.line > 0 ? column : tables.columns.row[column]);
        add_combination<T, kHeadDim, kProducts>(sums, weights[i], value, row, lane);
      }
    }
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    if (s.first) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int64_t token = own_rows[8 * r + lane / 4].token;
        from[r] = static_cast<const Word<T>*>(arguments.weights) +
                  (s.lse + token * problem.heads) * arguments.pitch;
      }
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[0][j][i] = 0.f;
      }
    }
    Tiles tiles(sweep, work.warp[warp], s.origin, s.line);
    Tile tile;
    while (tiles.next(tile, kBlock))
      meet(tile, step > 0 && stages.total == 1 && tiles.only(),
           base + map.stage + 2 * buffer * map.stage_bytes, s);
    if (!s.last) return;
    const float factors[2] = {arguments.factor, arguments.factor};
    store_rows<T, kHeadDim>(sums[0], factors, base + map.stationary + 16 * warp * R::kBytes,
                            own_rows, static_cast<T*>(arguments.result) + s.out,
                            problem.heads * problem.value_dim, problem.value_dim, lane);
  };

  run_steps(steps, sweep.buffers, stages.total == 1, describe, find, load, compute);
}

}  // namespace jax_na::cuda
