// The fused forward kernel for large windows at 64 features and more, on every GPU since sm_80: a
// CTA of four warps with 32 queries each, of which a multiprocessor holds several.
//
// Stage follows stage, each one tile for all warps. Keys and values are in shared memory once: the
// copy of a stage's values runs under its scores, and that of the next one's keys under its
// products with the values.
#pragma once

#include <cstdint>

#include "cuda/forward/find_stages.h"
#include "cuda/forward/item_copies.h"
#include "cuda/forward/patient_softmax.h"
#include "cuda/forward/stage_copies.h"
#include "cuda/forward/stage_list.h"
#include "cuda/forward/straight_store.h"
#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/opaque.h"
#include "cuda/ptx/shared.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/store.h"
#include "cuda/tile/tables.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

constexpr int kStreamedRowTiles = 2;
constexpr int kValuesCome = 1;  // a barrier; 0 is __syncthreads()

// CTAs that a multiprocessor has registers for.
template <int kHeadDim>
constexpr int kStreamedResident = kHeadDim <= 64 ? 3 : 2;

// Whether queries are read ahead of their products too: three warps of a scheduler need not.
template <int kHeadDim>
constexpr bool kQueryAhead = kStreamedResident<kHeadDim> < 3;

// What is seldom true is compiled out of the way.
__device__ __forceinline__ bool seldom(bool what) {
  return __builtin_expect(what, 0);
}

// Grid: boxes of all dilation groups, and CTAs that share the items of a box.
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(32 * kStreamedWarps, kStreamedResident<kHeadDim>)
    streamed_kernel(const __grid_constant__ Forward arguments,
                    const __grid_constant__ Sweep sweep) {
  using R = Rows<T, kHeadDim>;
  constexpr int kRowTiles = kStreamedRowTiles, kBlock = kStreamedBlock;
  constexpr int kTiles = kBlock / 8, kChunks = kBlock / 16;

  JAX_NA_SHARED(shared);
  const Problem& problem = arguments.problem;
  const SharedMap& map = sweep.map;
  Columns<kBlock>& columns = *reinterpret_cast<Columns<kBlock>*>(shared + map.columns);
  const CtaTables tables(shared, map);
  RowWork* rows = tables.rows;
  Work& work = tables.work;
  StageList& list = *reinterpret_cast<StageList*>(shared + map.list);
  const uint32_t base = ptx::shared_address(shared);
  const uint32_t keys = base + map.stage, values = keys + map.stage_bytes;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_columns(problem, sweep, 1, columns);
  find_places(sweep, tables.places);
  const RowWork* own_rows = rows + warp * sweep.warp_rows();
  const uint32_t own = base + map.stationary + warp * sweep.warp_rows() * R::kBytes;

  auto load_own = [&](uint32_t item) {
    copy_rows<T, kHeadDim, 1>(
        sweep.rows,
        {{static_cast<const char*>(arguments.query) + list.items[item].query * int{sizeof(T)},
          problem.heads * problem.head_dim * int{sizeof(T)}, problem.head_dim}},
        {base + map.stationary}, [&](int row) { return rows[row].token; });
  };
  using Copies = StageCopies<T, kHeadDim>;
  auto copies_of_keys = [&](uint32_t item, uint32_t at, bool any) {
    const KeyStage& stage = list.stages[at];
    return Copies({list.items[item].key[stage.line > 0],
                   problem.kv_heads * problem.head_dim * int{sizeof(T)}, problem.head_dim},
                  keys, list, stage, any);
  };
  auto copies_of_values = [&](uint32_t item, uint32_t at) {
    const KeyStage& stage = list.stages[at];
    return Copies({list.items[item].value[stage.line > 0],
                   problem.kv_heads * problem.value_dim * int{sizeof(T)}, problem.value_dim},
                  values, list, stage, true);
  };

  float out[kRowTiles][kHeadDim / 8][4];
  PatientSoftmax softmax[kRowTiles];
  // Where the lane's addresses of fragments begin: of queries, and of values, in the lower half,
  // and of keys in the upper.
  const StreamedLane score_lane = scores_lane(lane), sum_lane = combine_lane(lane);
  uint32_t offsets = R::chunk_offset(sum_lane.row, sum_lane.half) |
                     R::chunk_offset(score_lane.row, score_lane.half) << 16;
  // Kept, where there is a register for it.
  if (kQueryAhead<kHeadDim>) offsets = ptx::anew(offsets);

  // scores = Q K^T. Operands are read one product's worth ahead, and copies start in between.
  auto find_scores = [&](float (&scores)[kRowTiles][kTiles][4], const Copies& copies) {
    constexpr float kZero[4] = {0.f, 0.f, 0.f, 0.f};
    const uint32_t query = own + (offsets & 0xffff), key = keys + (offsets >> 16);
    uint32_t a[kQueryAhead<kHeadDim> ? 2 : 1][kRowTiles][4], b[2][4];
    auto read_query = [&](int k) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m)
        ptx::ldmatrix(a[kQueryAhead<kHeadDim> ? k % 2 : 0][m],
                      R::at_step(query, k) + 16 * m * R::kBytes);
    };
    if (kQueryAhead<kHeadDim>) read_query(0);
    ptx::ldmatrix(b[0], key);
#pragma unroll
    for (int k = 0; k < R::kSteps; ++k) {
      if (!kQueryAhead<kHeadDim>) read_query(k);
      const uint32_t (&of_query)[kRowTiles][4] = a[kQueryAhead<kHeadDim> ? k % 2 : 0];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int i = k * kChunks + c;
        if (i + 1 < R::kSteps * kChunks)
          ptx::ldmatrix(b[(i + 1) % 2],
                        R::at_step(key, (i + 1) / kChunks) + 16 * ((i + 1) % kChunks) * R::kBytes);
        if (kQueryAhead<kHeadDim> && c == 0 && k + 1 < R::kSteps) read_query(k + 1);
        if (i % 2 == 0 && i / 2 < Copies::kFours) copies.start(i / 2);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float (&sum)[4] = scores[m][2 * c + n];
            const uint32_t b0 = b[i % 2][2 * n], b1 = b[i % 2][2 * n + 1];
            if (k == 0)
              ptx::mma(sum, of_query[m], b0, b1, kZero, T());
            else
              ptx::mma(sum, of_query[m], b0, b1, sum, T());
          }
        }
      }
    }
  };

  // Two weights of a fragment of 16 rows and 16 columns: which ones, `part` says.
  auto weigh = [&](const float (&scores)[kRowTiles][kTiles][4], Weights<T>(&weights)[kRowTiles],
                   int c, int part, float factor) {
    const int m = part / 4, half = part % 4;
    weights[m].a[0][half] =
        softmax[m].template weigh<T>(scores[m][2 * c + half / 2], half % 2, factor);
  };

  // out += weights V, likewise; what is weighed are the scores, a chunk ahead of their products.
  auto add_values = [&](float (&scores)[kRowTiles][kTiles][4], Weights<T>(&weights)[2][kRowTiles],
                        float factor, const Copies& copies) {
    constexpr int kPairs = kHeadDim / 16, kParts = 4 * kRowTiles;
    const uint32_t value = values + (offsets & 0xffff);
    uint32_t b[2][4];
    ptx::ldmatrix_transposed(b[0], value);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const int i = c * kPairs + j;
        if (i + 1 < kChunks * kPairs)
          ptx::ldmatrix_transposed(b[(i + 1) % 2], R::at_step(value, (i + 1) % kPairs) +
                                                       16 * ((i + 1) / kPairs) * R::kBytes);
        if (i % 2 == 0 && i / 2 < Copies::kFours) copies.start(i / 2);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float (&sum)[4] = out[m][2 * j + n];
            ptx::mma(sum, weights[c % 2][m].a[0], b[i % 2][2 * n], b[i % 2][2 * n + 1], sum, T());
          }
        }
        if (c + 1 < kChunks) {
#pragma unroll
          for (int part = j * kParts / kPairs; part < (j + 1) * kParts / kPairs; ++part)
            weigh(scores, weights[(c + 1) % 2], c + 1, part, factor);
        }
      }
    }
  };

  // Scales scores and adds the bias, where a row sees it.
  auto scale_all = [&](float (&scores)[kRowTiles][kTiles][4], const KeyStage& stage,
                       const uint32_t (&seen)[2 * kRowTiles]) {
    const float scale = list.scale;
    const float* bias = stage.line > 0 ? nullptr : list.items[list.item[warp]].bias;
    const int of_tile = tile_bias(problem, stage.origin, 1);
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      const int at = own_rows[8 * i + lane / 4].bias + of_tile;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[i / 2][n][2 * (i % 2) + e];
          score *= scale;
          if (bias != nullptr && (seen[i] >> (2 * n + e) & 1))
            score = fmaf(bias[at + columns.bias[8 * n + 2 * t + e]], kLog2E, score);
        }
      }
    }
  };
  // That, where it is due, and hides what rows do not see.
  auto treat = [&](float (&scores)[kRowTiles][kTiles][4], const KeyStage& stage) {
    __syncwarp();
    if (stage.line > 0) {
      const uint32_t in_use = stage.there[t];
#pragma unroll
      for (int i = 0; i < 2 * kRowTiles; ++i) list.seen[warp][8 * i + lane / 4][t] = in_use;
    } else {  // each lane finds what one row sees
      *reinterpret_cast<uint4*>(list.seen[warp][lane]) =
          columns_in(columns, sweep, own_rows[lane].seen, stage.origin);
    }
    __syncwarp();
    uint32_t seen[2 * kRowTiles];
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i) seen[i] = list.seen[warp][8 * i + lane / 4][t];
    if (seldom(list.scale_first)) scale_all(scores, stage, seen);
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (!(seen[i] >> (2 * n + e) & 1)) scores[i / 2][n][2 * (i % 2) + e] = -INFINITY;
      }
    }
  };

  // Moves the references of the softmax, and results with them, where that is due.
  auto settle = [&](const float (&scores)[kRowTiles][kTiles][4], float factor) {
    float highest[kRowTiles][2];
    bool outgrown = false;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
      outgrown |= softmax[m].outgrown(scores[m], factor, highest[m]);
    if (!seldom(__any_sync(~0u, outgrown))) return;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      float shrink[2];
      softmax[m].move(highest[m], factor, shrink);
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][j][i] *= shrink[i / 2];
      }
    }
  };

  auto finish = [&](const StreamedItem& item) {
    T* to = static_cast<T*>(arguments.out) + item.out;
    store_results<kRowTiles>(
        problem, own_rows, static_cast<float*>(arguments.lse) + item.lse, lane,
        [&](int m, auto& inverse, auto& lse) { softmax[m].finish(inverse, lse); },
        [&](int m, const auto& inverse) {
          store_straight<T, kHeadDim>(out[m], inverse, own_rows + 16 * m, to,
                                      problem.heads * problem.value_dim, problem.value_dim, lane);
        });
  };

  auto begin_item = [&] {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      softmax[m] = PatientSoftmax();
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][j][i] = 0.f;
      }
    }
  };

  if (lane == 0 && warp < kMaxRank) {
    find_key_axis(problem, work, warp, list.axes[warp]);
  } else if (lane == 0) {
    find_item(arguments, sweep, 0, sizeof(T), list);
    list.modular = work.axis[0].modular || work.axis[1].modular || work.axis[2].modular;
    for (uint32_t& item : list.item) item = 0;
    // A factor of the exponent has to be positive, and the same for scores and bias.
    list.scale_first = problem.bias_batch > 0 || problem.scale <= 0;
    list.scale = static_cast<float>(problem.scale * 1.4426950408889634);
    list.factor = list.scale_first ? 1.f : list.scale;
  }
  __syncthreads();
  find_stages(problem, sweep, work, columns, 0, 0, list);
  find_stages(problem, sweep, work, columns, 1, 1, list);
  __syncthreads();
  prepare_row_shares<Copies::kApart>(tables.places, list.stages[0], list);
  __syncthreads();
  copies_of_keys(0, 0, true).start_all();
  load_own(0);
  ptx::cp_async_commit();
  begin_item();
  // What is found out ahead, at the beginning of some stages.
  auto meanwhile = [&](uint32_t at, uint32_t marks) {
    const KeyStage& stage = list.stages[at];
    if (marks & KeyStage::kDescribes)
      find_stages(problem, sweep, work, columns, stage.batch, at / StageList::kBatch ^ 1, list);
    if (marks & KeyStage::kPrepares) {
      // The next stage may be one of those.
      if (marks & KeyStage::kDescribes) __syncthreads();
      prepare_row_shares<Copies::kApart>(tables.places, list.stages[stage.next], list);
    }
    if ((marks & KeyStage::kFirst) && threadIdx.x == 0)
      find_item(arguments, sweep, list.described + 1, sizeof(T), list);
  };
  for (uint32_t at = 0;;) {
    ptx::cp_async_wait<0>();
    // The keys have come, for everybody, and nobody reads values any more.
    __syncthreads();
    const uint32_t marks = list.stages[at].marks[warp];
    if (seldom(marks & (KeyStage::kFirst | KeyStage::kDescribes | KeyStage::kPrepares)))
      meanwhile(at, marks);
    const int view = marks % KeyStage::kFirst;
    const uint32_t last = marks & KeyStage::kLast ? 1 : 0;
    // The values have come, for everybody, and nobody reads keys any more. The barrier has a name,
    // since warps wait for it in two places.
    auto values_have_come = [&] {
      ptx::cp_async_wait<0>();
      ptx::barrier_sync(kValuesCome, 32 * kStreamedWarps);
      // Nor queries.
      if (seldom(last) && list.items[list.item[warp]].more) load_own(list.item[warp] ^ 1);
    };
    auto next_keys = [&] {
      return copies_of_keys(list.item[warp] ^ last, list.stages[at].next,
                            !last || list.items[list.item[warp]].more);
    };
    if (view & kMet) {
      float scores[kRowTiles][kTiles][4];
      Weights<T> weights[2][kRowTiles];
      find_scores(scores, copies_of_values(list.item[warp], at));
      ptx::cp_async_commit();
      if (seldom(view & kAllUnsure)) treat(scores, list.stages[at]);
      const float factor = list.factor;
      settle(scores, factor);
#pragma unroll
      for (int part = 0; part < 4 * kRowTiles; ++part) weigh(scores, weights[0], 0, part, factor);
      values_have_come();
      add_values(scores, weights, factor, next_keys());
    } else {
      copies_of_values(list.item[warp], at).start_all();
      ptx::cp_async_commit();
      values_have_come();
      next_keys().start_all();
    }
    ptx::cp_async_commit();
    at = list.stages[at].next;
    if (seldom(last)) {
      const uint32_t item = list.item[warp];
      finish(list.items[item]);
      if (!list.items[item].more) break;
      if (lane == 0) list.item[warp] = item ^ 1;
      __syncwarp();
      begin_item();
    }
  }
  ptx::cp_async_wait<0>();
}

}  // namespace jax_na::cuda
