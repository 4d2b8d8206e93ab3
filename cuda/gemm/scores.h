// Scores of every query against its window: matrix products of a box of queries with the keys that
// any of them sees, scattered from the accumulators to the slots of each query's own window.
//
// A CTA finds out once where its box lies and what it sees, then goes through heads and batch
// entries, as the fused kernels do.
#pragma once

#include <cstdint>

#include "cuda/gemm/gemm.h"
#include "cuda/gemm/slots.h"
#include "cuda/gemm/staging.h"
#include "cuda/plan.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/shared.h"
#include "cuda/ptx/shared_words.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/steps.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

template <int kBlock, int kRowTiles>
using ScoresTables = StagingTables<float, kBlock, kRowsPerFragment * kRowTiles * kMaxWarps>;

// CTAs that a multiprocessor has registers for.
template <typename T, int kHeadDim, Products kProducts>
constexpr int kScoresCtas =
    kHeadDim * sizeof(T) <= (kProducts == Products::kSplit ? 128 : 256) ? 2 : 1;

// Grid: boxes of all dilation groups, and CTAs that share the items of a box. The plan counts two
// tensors on either side; here each has one, of twice the bytes.
template <typename T, int kHeadDim, int kRowTiles, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kScoresCtas<T, kHeadDim, kProducts>)
    scores_kernel(const __grid_constant__ Scores arguments, const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  using Tables = ScoresTables<kBlock, kRowTiles>;
  constexpr bool kInRegisters = kRowTiles * R::kSteps <= (kProducts == Products::kSplit ? 4 : 8);

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Tables& tables = *reinterpret_cast<Tables*>(shared + map.columns);
  const CtaTables known(shared, map);
  RowWork* rows = known.rows;
  Work& work = known.work;
  const uint32_t base = ptx::shared_address(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  const Columns<kBlock>& columns = tables.slots.columns;
  find_columns(problem, sweep, 1, tables.slots.columns);
  find_row_slots<Side::kQueries>(problem, sweep, work, tables.slots.row_slots);
  find_column_slots<kBlock>(problem, sweep, tables.slots.column_slots);
  const int first_row = warp * sweep.warp_rows();
  const RowWork* own_rows = rows + first_row;
  const uint32_t own = first_row * R::kBytes;
  const float* staging = tables.staging[warp];

  find_places(sweep, known.places);

  const Stages& stages = work.stages;
  const int steps = own_items(static_cast<int>(problem.batch) * problem.heads) * stages.total;
  const float scale = static_cast<float>(problem.scale);
  const int window = static_cast<int>(window_slots(problem));
  const int64_t slots = window + problem.additional;

  Stationary<T, kHeadDim, kRowTiles, kInRegisters> query;

  auto describe = [&](int index) {
    describe_for_warps<Side::kQueries, kBlock>(problem, sweep, arguments.bias, 1, index, known);
  };
  auto find = [&](int step, int table) { find_step_tokens(sweep, known, step, table); };

  // Where an item's queries are.
  auto own_buffer = [&](const Step& s) {
    return base + map.stationary +
           (sweep.own_buffers == 2 ? s.ordinal % 2 : 0) * 2 * map.stationary_bytes;
  };

  auto load = [&](int step, int table, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const int* stage_tokens = known.tokens + table * sweep.stage_rows;
    load_rows<T, kHeadDim, 1>(sweep.stage_rows,
                              {source<T>(s.window ? arguments.key : arguments.additional_keys,
                                         s.key, problem.kv_heads, problem.head_dim)},
                              {base + map.stage + 2 * buffer * map.stage_bytes},
                              [&](int row) { return stage_tokens[row]; });
  };

  auto load_own = [&](int step) {
    const Step& s = work.steps[step % kStepsKnown];
    load_rows<T, kHeadDim, 1>(
        sweep.rows, {source<T>(arguments.query, s.query, problem.heads, problem.head_dim)},
        {own_buffer(s)}, [&](int row) { return rows[row].token; });
  };

  // What each row sees of a tile, as bits. They stay while a warp has but one tile.
  uint32_t seen[kRowTiles][2];
  auto look = [&](const Tile& tile) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const RowWork& row = own_rows[16 * m + 8 * r + lane / 4];
        seen[m][r] = row.token < 0 ? 0 : seen_columns(columns, sweep, row, tile, kAllUnsure, t);
      }
    }
  };

  auto meet = [&](const Step& s, const Tile& tile, bool known, uint32_t key) {
    if (!known) look(tile);
    const int chunks = ((tile.line > 0 ? tile.line : sweep.tile_size) + 15) / 16;
    const float* bias = tile.line > 0 ? nullptr : s.bias;
    const int tile_at = bias != nullptr ? tile_bias(problem, tile.origin, 1) : 0;
    const int tile_slot =
        tile.line > 0 ? window + s.line_begin + tile.row : slot_number(problem, tile.origin);
    float* const* zeros = (tile.line > 0 ? tables.slot_zero : tables.position_zero) + first_row;
#pragma unroll 1
    for (int c = 0; c < chunks; c += 2) {
      uint32_t offsets[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // Nobody sees a chunk too many.
        const StreamedLane at = scores_lane(lane);
        const int column = 16 * (c + i < chunks ? c + i : c) + at.row;
        offsets[i] =
            R::chunk_offset(tile.row + (tile.line > 0 ? column : columns.row[column]), at.half);
      }
      float scores[kRowTiles][4][4];
      find_scores<T, kHeadDim, kProducts>(scores, query, key, offsets);
      const int own_column = min(16 * c + lane, kBlock - 1);
      const int own_slot =
          tile_slot + (tile.line > 0 ? own_column : tables.slots.column_slots[own_column]);
      const int own_bias = tile_at + columns.bias[own_column];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        __syncwarp();
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int at = (8 * r + lane / 4) * kStagingPitch + 8 * n + 2 * t;
            ptx::store_shared(ptx::shared_address(staging + at),
                              __float_as_uint(scores[m][n][2 * r] * scale),
                              __float_as_uint(scores[m][n][2 * r + 1] * scale));
          }
        }
        __syncwarp();
        float values[16];
#pragma unroll
        for (int row = 0; row < 16; ++row) values[row] = staging[row * kStagingPitch + lane];
#pragma unroll
        for (int row = 0; row < 16; ++row) {
          if (!sees_own_column(seen[m], row, c, lane)) continue;
          if (bias != nullptr) values[row] += bias[own_rows[16 * m + row].bias + own_bias];
          zeros[16 * m + row][own_slot] = values[row];
        }
      }
    }
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    if (s.first) {
      query.load(own_buffer(s) + own, lane);
      find_zeros(own_rows, tables.slots.row_slots + first_row, sweep.warp_rows(),
                 arguments.scores + s.lse * slots, problem.heads * slots, lane,
                 tables.slot_zero + first_row, tables.position_zero + first_row);
    }
    const uint32_t key = base + map.stage + 2 * buffer * map.stage_bytes;
    const bool known = step > 0 && work.warp[warp].only;
    Tiles tiles(sweep, work.warp[warp], s, work.view[step % kStepsKnown][warp], known);
    if (tiles.first(kBlock)) {
      do {
        meet(s, tiles.tile(), known, key);
      } while (tiles.next(kBlock));
    }
  };

  run_steps(
      work.warp[warp].progress, steps, sweep, work, describe, find, load, load_own, [] {}, compute);
}

}  // namespace jax_na::cuda
