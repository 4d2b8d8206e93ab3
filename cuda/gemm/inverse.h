// What queries hold, combined for every key with the weights that they give it: matrix products of
// transposed weights, gathered from the windows of the queries that see a box of keys, with rows of
// those queries. No two CTAs write the same element, so the result does not depend on their order.
#pragma once

#include <cstdint>

#include "cuda/gemm/combine.h"
#include "cuda/gemm/gather.h"
#include "cuda/gemm/gemm.h"
#include "cuda/gemm/slots.h"
#include "cuda/plan.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/steps.h"
#include "cuda/tile/store.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Chunks of 16 columns whose weights are gathered at a time.
template <typename T, int kHeadDim>
constexpr int kChunksAhead = (kHeadDim <= 64 ? 8 : 4) / static_cast<int>(sizeof(T));

// Grid and plan as for combine_kernel, with keys stationary; items are key heads. In place of the
// plan's scalars is a StreamedRow for every row of a buffer.
template <typename T, int kHeadDim, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kCombinationCtas<T, kHeadDim>)
    inverse_kernel(const __grid_constant__ Combination arguments,
                   const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  using Tables = SlotTables<kBlock, 16 * kMaxWarps>;
  constexpr int kAhead = kChunksAhead<T, kHeadDim>;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Tables& tables = *reinterpret_cast<Tables*>(shared + map.columns);
  const CtaTables known(shared, map);
  RowWork* rows = known.rows;
  Work& work = known.work;
  StreamedRow* streamed = reinterpret_cast<StreamedRow*>(shared + map.scalars);
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  find_work<Side::kKeys>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_columns(problem, sweep, -1, tables.columns);
  find_row_slots<Side::kKeys>(problem, sweep, work, tables.row_slots);
  const RowWork* own_rows = rows + 16 * warp;
  const int* own_slots = tables.row_slots + 16 * warp;

  find_places(sweep, known.places);

  const Stages& stages = work.stages;
  const bool same_tokens = stages.total == 1;
  const int steps = own_items(static_cast<int>(problem.batch) * problem.kv_heads) * stages.total *
                    problem.group();
  const int64_t token_pitch = arguments.pitch * problem.heads;

  float sums[1][kHeadDim / 8][4];

  // The stages of all query heads of a key head follow each other.
  auto describe = [&](int index) {
    describe_for_warps<Side::kKeys, kBlock>(problem, sweep, nullptr, 1, index, known);
  };
  auto find = [&](int step, int table) { find_step_tokens(sweep, known, step, table); };

  auto load = [&](int step, int table, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const int* stage_tokens = known.tokens + table * sweep.stage_rows;
    load_rows<T, kHeadDim, 1>(sweep.stage_rows,
                              {source<T>(arguments.from, s.out, problem.heads, problem.value_dim)},
                              {base + map.stage + 2 * buffer * map.stage_bytes},
                              [&](int row) { return stage_tokens[row]; });
    // The table of tokens is another step's by the time that the weights are gathered.
    if (!same_tokens || step < sweep.buffers)
      find_stage_slots(problem, sweep, work, s.tile.origin, known.places, stage_tokens,
                       streamed + buffer * sweep.stage_rows);
  };

  auto load_own = [](int) {};  // the stationary rows are results alone

  // What each row sees of a tile, as bits. They stay while a warp has but one tile.
  uint32_t seen[2];
  auto look = [&](const Tile& tile) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      seen[r] =
          seen_columns(tables.columns, sweep, own_rows[8 * r + lane / 4], tile, kAllUnsure, t);
  };

  auto meet = [&](const Tile& tile, bool known, const Word<T>* weights_of_item,
                  const StreamedRow* stage, uint32_t from) {
    if (!known) look(tile);
    const int chunks = (sweep.tile_size + 15) / 16;
    const int row_slot[2] = {own_slots[lane / 4], own_slots[8 + lane / 4]};
#pragma unroll 1
    for (int first = 0; first < chunks; first += kAhead) {
      // The weights of several chunks are on their way before the first is needed.
      Weights<T> weights[kAhead][1];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        gather<T>(weights[i][0], [&](int n, int r, int e) -> uint32_t {
          const int pair = 8 * (first + i) + 4 * n, column = 2 * pair + 2 * t + e;
          if (first + i >= chunks || !(seen[r] >> (pair / 2 + e) & 1)) return 0;
          const StreamedRow query = stage[tile.row + tables.columns.row[column]];
          return weights_of_item[query.token * token_pitch + (query.slot + row_slot[r])];
        });
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i >= chunks) break;
        const StreamedLane at = combine_lane(lane);
        const int row = tile.row + tables.columns.row[16 * (first + i) + at.row];
        add_combination<T, kHeadDim, kProducts>(sums, weights[i], from,
                                                R::chunk_offset(row, at.half), lane);
      }
    }
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    if (s.first) {
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[0][j][i] = 0.f;
      }
    }
    const uint32_t from = base + map.stage + 2 * buffer * map.stage_bytes;
    const StreamedRow* stage = streamed + buffer * sweep.stage_rows;
    const Word<T>* weights =
        static_cast<const Word<T>*>(arguments.weights) + s.lse * arguments.pitch;
    const bool known = step > 0 && work.warp[warp].only;
    Tiles tiles(sweep, work.warp[warp], s, work.view[step % kStepsKnown][warp], known);
    if (tiles.first(kBlock)) {
      do {
        meet(tiles.tile(), known, weights, stage, from);
      } while (tiles.next(kBlock));
    }
    if (!s.last) return;
    const float factors[2] = {arguments.factor, arguments.factor};
    store_rows<T, kHeadDim>(sums[0], factors, base + map.stationary + 16 * warp * R::kBytes,
                            own_rows, static_cast<T*>(arguments.result) + s.value,
                            problem.kv_heads * problem.value_dim, problem.value_dim, lane);
  };

  run_steps(
      work.warp[warp].progress, steps, sweep, work, describe, find, load, load_own, [] {}, compute);
}

}  // namespace jax_na::cuda
