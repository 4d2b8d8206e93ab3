// The fused forward kernel for large windows at 64 features and more, on every GPU since sm_80: a
// CTA of four warps with 32 queries each, of which a multiprocessor holds several.
//
// Stage follows stage, each one tile for all warps. Keys and values are in shared memory once: the
// copy of a stage's values runs under its scores, and that of the next one's keys under its
// products with the values.
#pragma once

#include <cstdint>

#include "cuda/forward/find_stages.h"
#include "cuda/forward/stage_list.h"
#include "cuda/launch.h"
#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/opaque.h"
#include "cuda/ptx/shared.h"
#include "cuda/ptx/shared_words.h"
#include "cuda/tile/columns.h"
#include "cuda/tile/find_work.h"
#include "cuda/tile/fragment.h"
#include "cuda/tile/load.h"
#include "cuda/tile/softmax.h"
#include "cuda/tile/store.h"
#include "cuda/tile/tiles.h"
#include "cuda/tile/walk.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

constexpr int kStreamedRowTiles = 2;

// CTAs that a multiprocessor has registers for.
template <int kHeadDim>
constexpr int kStreamedResident = kHeadDim <= 64 ? 3 : 2;

// Whether queries are read ahead of their products too: three warps of a scheduler need not.
template <int kHeadDim>
constexpr bool kQueryAhead = kStreamedResident<kHeadDim> < 3;

// How the threads of a CTA share the copies of a stage: so many copy a row together, each every
// kApart-th row.
template <typename T, int kHeadDim>
struct StageCopies {
  using R = Rows<T, kHeadDim>;
  static constexpr int kLanes = R::kChunks <= 8 ? 8 : 16;
  static constexpr int kApart = 32 * kStreamedWarps / kLanes;
  static constexpr int kRows = kStreamedBlock / kApart;  // of a thread
  static_assert(kApart % 8 == 0, "rows of a thread are swizzled alike");
  static_assert(kRows % 4 == 0, "a thread reads its tokens by four");

  // Starts them; `tokens` is the address in shared memory of the stage's tokens.
  __device__ __forceinline__ static void start(const Source& from, uint32_t to, uint32_t tokens) {
    const int chunk = threadIdx.x % kLanes, begin = threadIdx.x / kLanes;
    if (chunk >= R::kChunks) return;
    const bool inside = chunk * R::kPerChunk < from.features;
    const char* column = ptx::opaque(from.base + (inside ? 16 * chunk : 0));
    const uint32_t first = to + R::chunk_offset(begin, chunk);
    int own[kRows];
#pragma unroll
    for (int i = 0; i < kRows; i += 4) {
      const uint4 four = ptx::load_shared_16(tokens + 4 * (begin * kRows + i));
      own[i] = four.x, own[i + 1] = four.y, own[i + 2] = four.z, own[i + 3] = four.w;
    }
    // Where there is no token nothing is read.
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      ptx::cp_async(first + i * kApart * R::kBytes,
                    column + static_cast<int64_t>(own[i]) * from.stride, own[i] >= 0 && inside);
  }
};

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
  RowWork* rows = reinterpret_cast<RowWork*>(shared + map.rows);
  Work& work = *reinterpret_cast<Work*>(shared + map.work);
  StageList& list = *reinterpret_cast<StageList*>(shared + map.list);
  Place* places = reinterpret_cast<Place*>(shared + map.places);
  const uint32_t base = ptx::shared_address(shared);
  const uint32_t keys = base + map.stage, values = keys + map.stage_bytes;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;

  find_work<Side::kQueries>(problem, arguments.origins, sweep, blockIdx.x, work, rows);
  if (work.empty()) return;
  find_columns(problem, sweep, 1, columns);
  find_places(sweep, places);
  const RowWork* own_rows = rows + warp * sweep.warp_rows();
  const uint32_t own = base + map.stationary + warp * sweep.warp_rows() * R::kBytes;

  auto load_own = [&](uint32_t item) {
    load_rows<T, kHeadDim, 1>(
        sweep.rows,
        {{static_cast<const char*>(arguments.query) + list.items[item].query * int{sizeof(T)},
          problem.heads * problem.head_dim * int{sizeof(T)}, problem.head_dim}},
        {base + map.stationary}, [&](int row) { return rows[row].token; });
  };
  auto load_keys = [&](uint32_t item, uint32_t at) {
    StageCopies<T, kHeadDim>::start(
        {list.items[item].key[list.stages[at].tile.line > 0],
         problem.kv_heads * problem.head_dim * int{sizeof(T)}, problem.head_dim},
        keys, ptx::shared_address(list.tokens[at]));
  };
  auto load_values = [&](uint32_t item, uint32_t at) {
    StageCopies<T, kHeadDim>::start(
        {list.items[item].value[list.stages[at].tile.line > 0],
         problem.kv_heads * problem.value_dim * int{sizeof(T)}, problem.value_dim},
        values, ptx::shared_address(list.tokens[at]));
  };

  float out[kRowTiles][kHeadDim / 8][4];
  RunningSoftmax softmax[kRowTiles];
  const uint32_t query = own + R::chunk_offset(lane % 16, lane / 16);
  const StreamedLane score_lane = scores_lane(lane), sum_lane = combine_lane(lane);
  const uint32_t key = keys + R::chunk_offset(score_lane.row, score_lane.half);
  const uint32_t value = values + R::chunk_offset(sum_lane.row, sum_lane.half);

  // scores = Q K^T. Operands are read one product's worth ahead.
  auto find_scores = [&](float (&scores)[kRowTiles][kTiles][4]) {
    constexpr float kZero[4] = {0.f, 0.f, 0.f, 0.f};
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

  // out += weights V, likewise.
  auto add_values = [&](const Weights<T>(&weights)[kChunks][kRowTiles]) {
    constexpr int kPairs = kHeadDim / 16;
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
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float (&sum)[4] = out[m][2 * j + n];
            ptx::mma(sum, weights[c][m].a[0], b[i % 2][2 * n], b[i % 2][2 * n + 1], sum, T());
          }
        }
      }
    }
  };

  // Scales a row's scores, adds the bias, and hides what the row does not see.
  auto treat = [&](float (&scores)[kTiles][4], int r, int row, const Tile& tile) {
    const uint32_t seen = list.seen[warp][row][t];
    if (list.scale_first) {
      const float scale = list.scale;
      const float* bias = tile.line > 0 ? nullptr : list.items[list.item].bias;
      const int at = own_rows[row].bias + tile_bias(problem, tile.origin, 1);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][2 * r + e];
          score *= scale;
          if (bias != nullptr && (seen >> (2 * n + e) & 1))
            score = fmaf(bias[at + columns.bias[8 * n + 2 * t + e]], kLog2E, score);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (!(seen >> (2 * n + e) & 1)) scores[n][2 * r + e] = -INFINITY;
    }
  };
  auto treat_all = [&](float (&scores)[kRowTiles][kTiles][4], const Tile& tile, int unsure) {
    __syncwarp();
    if (tile.line > 0) {
      const uint32_t in_use = first_columns(tile.line, t);
#pragma unroll
      for (int i = 0; i < 4; ++i) list.seen[warp][8 * i + lane / 4][t] = in_use;
    } else {  // each lane finds what one row sees
      *reinterpret_cast<uint4*>(list.seen[warp][lane]) =
          seen_by_row(columns, sweep, own_rows[lane], tile, unsure);
    }
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) treat(scores[m], r, 16 * m + 8 * r + lane / 4, tile);
    }
  };

  auto weigh = [&](float (&scores)[kRowTiles][kTiles][4],
                   Weights<T>(&weights)[kChunks][kRowTiles]) {
    const float factor = list.factor;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      float shrink[2];
      if (softmax[m].settle(scores[m], factor, shrink)) {
#pragma unroll
        for (int j = 0; j < kHeadDim / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out[m][j][i] *= shrink[i / 2];
        }
      }
      softmax[m].weigh(scores[m], factor);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) weights[c][m].set(scores[m][2 * c], scores[m][2 * c + 1]);
    }
  };

  auto finish = [&](const StreamedItem& item) {
    T* results = static_cast<T*>(arguments.out) + item.out;
    float* lses = static_cast<float*>(arguments.lse) + item.lse;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      float inverse[2], lse[2];
      softmax[m].finish(list.factor, inverse, lse);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int token = own_rows[16 * m + 8 * r + lane / 4].token;
        if (t == 0 && token >= 0) lses[static_cast<int64_t>(token) * problem.heads] = lse[r];
      }
      store_rows<T, kHeadDim>(out[m], inverse, own + 16 * m * R::kBytes, own_rows + 16 * m, results,
                              problem.heads * problem.value_dim, problem.value_dim, lane);
    }
  };

  auto begin_item = [&] {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      softmax[m] = RunningSoftmax();
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
    list.item = 0;
    // A factor of the exponent has to be positive, and the same for scores and bias.
    list.scale_first = problem.bias_batch > 0 || problem.scale <= 0;
    list.scale = static_cast<float>(problem.scale * 1.4426950408889634);
    list.factor = list.scale_first ? 1.f : list.scale;
  }
  __syncthreads();
  find_stages<StageCopies<T, kHeadDim>::kApart>(problem, sweep, work, 0, 0, places, list);
  find_stages<StageCopies<T, kHeadDim>::kApart>(problem, sweep, work, 1, 1, places, list);
  __syncthreads();
  load_keys(0, 0);
  load_own(0);
  ptx::cp_async_commit();
  begin_item();
  for (uint32_t at = 0;;) {
    ptx::cp_async_wait<0>();
    // The keys have come, for everybody, and nobody reads values any more.
    __syncthreads();
    const uint32_t marks = list.stages[at].marks;
    load_values(list.item, at);
    ptx::cp_async_commit();
    if (seldom(marks & (KeyStage::kFirst | KeyStage::kDescribes))) {
      if (marks & KeyStage::kDescribes)
        find_stages<StageCopies<T, kHeadDim>::kApart>(problem, sweep, work, list.stages[at].batch,
                                                      at / StageList::kBatch ^ 1, places, list);
      if ((marks & KeyStage::kFirst) && threadIdx.x == 0)
        find_item(arguments, sweep, list.described + 1, sizeof(T), list);
    }
    const int view = marks >> 4 * warp & 15;
    Weights<T> weights[kChunks][kRowTiles];
    if (view & kMet) {
      float scores[kRowTiles][kTiles][4];
      find_scores(scores);
      const int unsure = view & kAllUnsure;
      if (seldom(unsure != 0 || list.scale_first)) treat_all(scores, list.stages[at].tile, unsure);
      weigh(scores, weights);
    }
    ptx::cp_async_wait<0>();
    // The values have come, for everybody, and nobody reads keys any more.
    __syncthreads();
    const uint32_t last = marks & KeyStage::kLast ? 1 : 0;
    if (!last || list.items[list.item].more) load_keys(list.item ^ last, list.stages[at].next);
    ptx::cp_async_commit();
    if (view & kMet) add_values(weights);
    at = list.stages[at].next;
    if (seldom(last)) {
      const uint32_t item = list.item;
      finish(list.items[item]);
      if (!list.items[item].more) return;
      __syncthreads();
      if (threadIdx.x == 0) list.item = item ^ 1;
      load_own(item ^ 1);
      ptx::cp_async_commit();
      begin_item();
    }
  }
}

}  // namespace jax_na::cuda
