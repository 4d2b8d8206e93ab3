// A consumer of the Hopper backward kernel: one warpgroup, which has up to 64 keys of every item.
//
// Scores and what becomes of them have keys as rows and queries as columns, so that weights and the
// gradients of scores are operands of products from the registers that they are made in. The
// products of a tile are issued in an order that leaves the tensor cores something to do while
// scores turn into weights: docs/kernels.md has the schedule.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/sums.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/products.h"
#include "cuda/hopper/results.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

constexpr int kBothBarrier = 1;  // of all consumers
constexpr int kOneBarrier = 2;   // and following, of one warpgroup each

// sums = dscores^T keys, of all the CTA's keys and some of the features.
template <typename Shape>
__device__ __forceinline__ void issue_sums(float (&sums)[Shape::kSumColumns / 2], uint32_t dscores,
                                           uint32_t keys) {
  const uint64_t a = ptx::wgmma_operand(dscores, 0), b = ptx::wgmma_operand(keys, 0);
#pragma unroll
  for (int step = 0; step < Shape::kRows / 16; ++step)
    ptx::wgmma_by_depth<typename Shape::Element, Shape::kSumColumns>(
        sums, ptx::wgmma_advance(a, step * 16 * kPanelRowBytes),
        ptx::wgmma_advance(b, step * 16 * kPanelRowBytes), step > 0);
}

// dkey = dscores queries (+ dkey where `add` is not 0), of a warpgroup's keys, where dscores are in
// shared memory for the sums. Otherwise they are operands from the registers they were made in.
template <typename Shape>
__device__ __forceinline__ void issue_dkey(float (&dkey)[Shape::kHeadDim / 2], uint32_t dscores,
                                           uint32_t queries, int add) {
  const uint64_t a = ptx::wgmma_operand(dscores, 0);
  const uint64_t b = ptx::wgmma_operand(queries, Shape::kStagePanelBytes);
#pragma unroll
  for (int step = 0; step < Shape::kBlock / 16; ++step)
    ptx::wgmma_by_rows<typename Shape::Element, Shape::kHeadDim>(
        dkey, ptx::wgmma_advance(a, step * 32), ptx::wgmma_advance(b, step * 16 * kPanelRowBytes),
        step > 0 ? 1 : add);
}

// Writes a warpgroup's rows of a tile's gradients of scores.
template <int kSteps>
__device__ __forceinline__ void stage_dscores(const uint32_t (&dscores)[kSteps][4], uint32_t to) {
  const int lane = ptx::lane(), row = ptx::thread() % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
    ptx::stmatrix(to + row * kPanelRowBytes + ((2 * step + lane / 16) ^ (row & 7)) * 16,
                  dscores[step]);
}

template <typename Shape>
__device__ __forceinline__ void consume(const HopperBackwardArguments& arguments,
                                        HopperBackwardControl<Shape>& control, uint32_t base,
                                        int warpgroup) {
  using T = typename Shape::Element;
  constexpr int kSteps = Shape::kBlock / 16;
  constexpr int kScores = Shape::kBlock / 2;  // of a lane
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  // exp2(factor * score); where that would not do the scores are scaled first.
  const bool scale_first = problem.scale <= 0;
  const float scale = static_cast<float>(problem.scale * 1.4426950408889634);
  const float factor = scale_first ? 1.f : scale;

  // Where this warpgroup's part of everything is.
  constexpr int kPartBytes = kWarpgroupRows * kPanelRowBytes;
  const uint32_t first_keys = base + Shape::kKeyAt + warpgroup * kPartBytes;
  const int first_column = warpgroup * Shape::kSumColumns;
  const uint32_t first_key_columns = base + Shape::kKeyAt +
                                     first_column / kPanelElements * Shape::kRowPanelBytes +
                                     first_column % kPanelElements * 2;
  const uint32_t sums_to = base + Shape::kSumAt + warpgroup * Shape::kSumBytes;

  RingPlace<Shape::kRowBuffers> row_place;
  RingPlace<Shape::kQueryStages> query_place;
  RingPlace<kItemsKnown> item_place;
  // Of tiles, in all items: what is held twice, or once, is where its lower bits say.
  static_assert(Shape::kDoutStages == 2 && Shape::kDscoreBuffers == 2, "places by parity");
  uint32_t met = 0;
  float dkey[Shape::kHeadDim / 2], dvalue[Shape::kHeadDim / 2];
  float scores[kScores], cotangents[kScores], sums[Shape::kSumColumns / 2];
  uint32_t weights[kSteps][4], dscores[kSteps][4];

  // Of the item's buffer.
  auto buffer_bytes = [&] { return row_place.stage * 2 * Shape::kRowBytes; };
  auto keys = [&] { return first_keys + buffer_bytes(); };
  auto values = [&] { return keys() + Shape::kRowBytes; };
  auto key_columns = [&] { return first_key_columns + buffer_bytes(); };
  auto arrive = [&](uint64_t& barrier) {
    __syncwarp();
    if (ptx::lane() == 0) ptx::mbarrier_arrive(ptx::shared_address(&barrier));
  };
  auto query_stage = [&](int stage) { return base + Shape::kQueryAt + stage * Shape::kStageBytes; };
  auto dout_stage = [&](int stage) { return base + Shape::kDoutAt + stage * Shape::kStageBytes; };

  auto issue_tile_scores = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[query_place.stage]),
                       query_place.parity);
    ptx::wgmma_fence();
    issue_scores<Shape>(scores, keys(), query_stage(query_place.stage));
    ptx::wgmma_commit();
  };
  auto issue_tile_cotangents = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_dout[met % 2]), met / 2 % 2);
    ptx::wgmma_fence();
    issue_scores<Shape>(cotangents, values(), dout_stage(met % 2));
    ptx::wgmma_commit();
  };

  // Columns 8n + 2t and 8n + 2t + 1 of a statistic.
  auto statistic = [&](const float* of, int n) {
    return *reinterpret_cast<const float2*>(of + 8 * n);
  };
  auto weigh = [&](int stage) {
    const TileMask& mask = control.masks[stage][warpgroup];
    if (scale_first) {
#pragma unroll
      for (float& score : scores) score *= scale;
    }
    const int lane = ptx::lane(), t = lane % 4;
    if (!mask.sure) {
      const int row = ptx::thread() % 128 / 32 * 16 + lane / 4;
      const uint32_t seen[2] = {mask.word[row][t], mask.word[row + 8][t]};
      hide_columns(scores, seen);
    }
    const float* lses = control.lse[stage] + 2 * t;
#pragma unroll
    for (int n = 0; n < kScores / 4; ++n) {
      const float2 lse = statistic(lses, n);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float* pair = scores + 4 * n + 2 * r;
        weights[n / 2][2 * (n % 2) + r] = pack(ptx::exp2(fmaf(pair[0], factor, -lse.x)),
                                               ptx::exp2(fmaf(pair[1], factor, -lse.y)), T());
      }
    }
  };
  auto find_dscores = [&](int stage) {
    const float* deltas = control.delta[stage] + 2 * (ptx::lane() % 4);
#pragma unroll
    for (int n = 0; n < kScores / 4; ++n) {
      const float2 delta = statistic(deltas, n);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* pair = cotangents + 4 * n + 2 * r;
        const float2 weight = unpack(weights[n / 2][2 * (n % 2) + r], T());
        dscores[n / 2][2 * (n % 2) + r] =
            pack(weight.x * (pair[0] - delta.x), weight.y * (pair[1] - delta.y), T());
      }
    }
  };
  // The stage of the queries of the tile before.
  auto stage_before = [&] {
    return query_place.stage == 0 ? Shape::kQueryStages - 1 : query_place.stage - 1;
  };
  auto add_sums = [&](uint32_t parity) {
    ptx::mbarrier_wait(ptx::shared_address(&control.empty_sums[warpgroup]), parity ^ 1);
    stage_sums<Shape>(sums, sums_to);
    ptx::fence_async_shared();
    arrive(control.full_sums[warpgroup]);
  };

  auto store_results = [&](const HopperItem& item) {
    const float scales[2] = {static_cast<float>(problem.scale), static_cast<float>(problem.scale)};
    const float ones[2] = {1.f, 1.f};
    const int thread = ptx::thread() % 128, warp = thread / 32, lane = thread % 32;
    // All that read these keys are done with them, for sums the other warpgroup too.
    if constexpr (Shape::kSums)
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    else
      ptx::barrier_sync(kOneBarrier + warpgroup, 128);
    stage_results<Shape>(dkey, scales, keys(), warp, lane);
    stage_results<Shape>(dvalue, ones, values(), warp, lane);
    ptx::fence_async_shared();
    ptx::barrier_sync(kOneBarrier + warpgroup, 128);
    if (thread != 0) return;
    int token[kMaxRank];
    bool any = true;  // a store that begins outside of the tensor would store nothing
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int offset = plan.offset(warpgroup, a);
      token[a] = item.axis[a].row + offset * problem.axes[a].dilation;
      any = any && offset < item.axis[a].rows;
    }
    if (any) {
#pragma unroll
      for (int panel = 0; panel < Shape::kPanels; ++panel) {
        const int column = item.head * Shape::kHeadDim + panel * kPanelElements;
        ptx::tma_store(&arguments.dkey, keys() + panel * Shape::kOutPanelBytes, column, token[2],
                       token[1], token[0], item.entry);
        ptx::tma_store(&arguments.dvalue, values() + panel * Shape::kOutPanelBytes, column,
                       token[2], token[1], token[0], item.entry);
      }
    }
    ptx::tma_store_commit();
    ptx::tma_store_wait_read();
    ptx::mbarrier_arrive(ptx::shared_address(&control.empty_rows[row_place.stage]));
  };

  auto issue_tile_dkey = [&](int add) {
    ptx::wgmma_fence();
    issue_combination<Shape>(dkey, dscores, query_stage(stage_before()), add);
    ptx::wgmma_commit();
  };
  // The tiles of an item, of which the first one has its scores and cotangents under way. Nobody
  // waits for the other warpgroup.
  auto pass_tiles = [&](int total) {
    int tile = 0;
    for (;;) {
      ptx::wgmma_fence();
      issue_combination<Shape>(dvalue, weights, dout_stage(met % 2), tile > 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::keep_here(cotangents);
      if (tile > 0) arrive(control.empty_query[stage_before()]);
      find_dscores(query_place.stage);
      query_place.next();
      if (++tile == total) break;
      // The compiler keeps operands in registers as they are until a wait for all products, without
      // which in each round it would serialise them.
      if constexpr (Shape::kHeadDim > 64) {
        // No registers for these gradients of scores beside the next ones.
        issue_tile_dkey(tile > 1);
        ptx::wgmma_wait<0>();
        issue_tile_scores();
        ptx::wgmma_wait<0>();
      } else {
        issue_tile_scores();
        ptx::wgmma_wait<0>();
        issue_tile_dkey(tile > 1);
      }
      ptx::keep_here(scores);
      arrive(control.empty_dout[met % 2]);
      ++met;
      issue_tile_cotangents();
      weigh(query_place.stage);
    }
    issue_tile_dkey(tile > 1);
    ptx::wgmma_wait<0>();
    arrive(control.empty_dout[met % 2]);
    ++met;
  };
  auto pass_tiles_and_sum = [&](int total) {
    int tile = 0;
    for (;;) {
      ptx::wgmma_fence();
      issue_combination<Shape>(dvalue, weights, dout_stage(met % 2), tile > 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::keep_here(cotangents);
      if (tile > 0) arrive(control.empty_query[stage_before()]);
      find_dscores(query_place.stage);
      const uint32_t staged = base + Shape::kDscoreAt + met % 2 * Shape::kDscoreBytes;
      stage_dscores(dscores, staged + warpgroup * kPartBytes);
      ptx::fence_async_shared();
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
      // Not a group of its own: the wait is for what was issued before.
      ptx::wgmma_fence();
      issue_sums<Shape>(sums, staged, key_columns());
      ptx::wgmma_wait<0>();
      arrive(control.empty_dout[met % 2]);
      ++met;
      query_place.next();
      if (++tile == total) break;
      issue_tile_scores();
      ptx::wgmma_fence();
      issue_dkey<Shape>(dkey, staged + warpgroup * kPartBytes, query_stage(stage_before()),
                        tile > 1);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::keep_here(sums);
      ptx::keep_here(scores);
      add_sums((met - 1) % 2);
      issue_tile_cotangents();
      weigh(query_place.stage);
    }
    ptx::wgmma_commit();
    ptx::wgmma_fence();
    issue_dkey<Shape>(
        dkey,
        base + Shape::kDscoreAt + (met - 1) % 2 * Shape::kDscoreBytes + warpgroup * kPartBytes,
        query_stage(stage_before()), tile > 1);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    ptx::keep_here(sums);
    add_sums((met - 1) % 2);
    ptx::wgmma_wait<0>();
  };

  for (;; item_place.next()) {
    const int slot = item_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_rows[row_place.stage]), row_place.parity);
    const int total = item.total;
    issue_tile_scores();
    issue_tile_cotangents();
    ptx::wgmma_wait<1>();
    ptx::keep_here(scores);
    weigh(query_place.stage);

    if constexpr (Shape::kSums)
      pass_tiles_and_sum(total);
    else
      pass_tiles(total);
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    arrive(control.empty_query[stage_before()]);
    store_results(item);
    row_place.next();
    arrive(control.done[slot]);
  }
}

}  // namespace jax_na::cuda
