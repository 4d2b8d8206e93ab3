// Values combined with the weights of every query's window: matrix products of weights, gathered
// from the slots of each query's own window, with the values that any query of a box sees.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/gemm/gather.h"
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
#include "cuda/tile/store.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// CTAs that a multiprocessor has registers for.
template <typename T, int kHeadDim>
constexpr int kCombinationCtas = kHeadDim <= (sizeof(T) == 2 ? 128 : 64) ? 2 : 1;

template <typename T, int kBlock>
using CombineTables = StagingTables<Word<T>, kBlock, kRowsPerFragment * kMaxWarps>;

// Grid: boxes of all dilation groups, and CTAs that share the items of a box. The plan counts two
// tensors on either side; here one is streamed, of twice the bytes, and the stationary rows are
// those of the results, on their way to global memory.
template <typename T, int kHeadDim, int kBlock, Products kProducts>
__global__ void __launch_bounds__(32 * kMaxWarps, kCombinationCtas<T, kHeadDim>)
    combine_kernel(const __grid_constant__ Combination arguments,
                   const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  using Tables = CombineTables<T, kBlock>;

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
  const RowWork* own_rows = rows + 16 * warp;
  Word<T>* staging = tables.staging[warp];

  find_places(sweep, known.places);

  const Stages& stages = work.stages;
  const int steps = own_items(static_cast<int>(problem.batch) * problem.heads) * stages.total;
  const int window = static_cast<int>(window_slots(problem));

  float sums[1][kHeadDim / 8][4];

  auto describe = [&](int index) {
    describe_for_warps<Side::kQueries, kBlock>(problem, sweep, nullptr, 1, index, known);
  };
  auto find = [&](int step, int table) { find_step_tokens(sweep, known, step, table); };

  auto load = [&](int step, int table, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    const int* stage_tokens = known.tokens + table * sweep.stage_rows;
    const void* tensor = s.window ? arguments.from : arguments.additional;
    load_rows<T, kHeadDim, 1>(sweep.stage_rows,
                              {source<T>(tensor, s.value, problem.kv_heads, problem.value_dim)},
                              {base + map.stage + 2 * buffer * map.stage_bytes},
                              [&](int row) { return stage_tokens[row]; });
  };

  auto load_own = [](int) {};  // the stationary rows are results alone

  // What each row sees of a tile, as bits. They stay while a warp has but one tile.
  uint32_t seen[2];
  auto look = [&](const Tile& tile) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowWork& row = own_rows[8 * r + lane / 4];
      seen[r] = row.token < 0 ? 0 : seen_columns(columns, sweep, row, tile, kAllUnsure, t);
    }
  };

  auto meet = [&](const Step& s, const Tile& tile, bool known, uint32_t value) {
    if (!known) look(tile);
    const int chunks = ((tile.line > 0 ? tile.line : sweep.tile_size) + 15) / 16;
    const int tile_slot =
        tile.line > 0 ? window + s.line_begin + tile.row : slot_number(problem, tile.origin);
    const Word<T>* const* zeros =
        (tile.line > 0 ? tables.slot_zero : tables.position_zero) + 16 * warp;
#pragma unroll 1
    for (int c = 0; c < chunks; c += 2) {
      const int own_column = min(16 * c + lane, kBlock - 1);
      const int own_slot =
          tile_slot + (tile.line > 0 ? own_column : tables.slots.column_slots[own_column]);
      Word<T> words[16];
#pragma unroll
      for (int row = 0; row < 16; ++row)
        words[row] = sees_own_column(seen, row, c, lane) ? zeros[row][own_slot] : Word<T>(0);
      __syncwarp();
#pragma unroll
      for (int row = 0; row < 16; ++row) staging[row * kStagingPitch + lane] = words[row];
      __syncwarp();
#pragma unroll 1
      for (int i = 0; i < 2 && c + i < chunks; ++i) {
        Weights<T> weights[1];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const uint32_t from = ptx::shared_address(staging + (8 * r + lane / 4) * kStagingPitch +
                                                      16 * i + 8 * n + 2 * t);
            if constexpr (std::is_same_v<T, float>) {
              weights[0].a[n][r] = ptx::load_shared(from);
              weights[0].a[n][2 + r] = ptx::load_shared(from + 4);
            } else {
              weights[0].a[0][2 * n + r] = ptx::load_shared(from);
            }
          }
        }
        const StreamedLane at = combine_lane(lane);
        const int column = 16 * (c + i) + at.row;
        const int row = tile.row + (tile.line > 0 ? column : columns.row[column]);
        add_combination<T, kHeadDim, kProducts>(sums, weights, value, R::chunk_offset(row, at.half),
                                                lane);
      }
    }
  };

  auto compute = [&](int step, int buffer) {
    const Step& s = work.steps[step % kStepsKnown];
    if (s.first) {
      find_zeros(own_rows, tables.slots.row_slots + 16 * warp, 16,
                 const_cast<Word<T>*>(static_cast<const Word<T>*>(arguments.weights)) +
                     s.lse * arguments.pitch,
                 problem.heads * arguments.pitch, lane, tables.slot_zero + 16 * warp,
                 tables.position_zero + 16 * warp);
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[0][j][i] = 0.f;
      }
    }
    const uint32_t value = base + map.stage + 2 * buffer * map.stage_bytes;
    const bool known = step > 0 && work.warp[warp].only;
    Tiles tiles(sweep, work.warp[warp], s, work.view[step % kStepsKnown][warp], known);
    if (tiles.first(kBlock)) {
      do {
        meet(s, tiles.tile(), known, value);
      } while (tiles.next(kBlock));
    }
    if (!s.last) return;
    const float factors[2] = {arguments.factor, arguments.factor};
    store_rows<T, kHeadDim>(sums[0], factors, base + map.stationary + 16 * warp * R::kBytes,
                            own_rows, static_cast<T*>(arguments.result) + s.out,
                            problem.heads * problem.value_dim, problem.value_dim, lane);
  };

  run_steps(
      work.warp[warp].progress, steps, sweep, work, describe, find, load, load_own, [] {}, compute);
}

}  // namespace jax_na::cuda
