// A consumer of the Hopper backward kernel: one warpgroup, which has up to 64 keys of every item.
//
// Scores and what becomes of them have keys as rows and queries as columns, so that weights and the
// gradients of scores are operands of products from the registers that they are made in. The
// products of a tile are issued in an order that leaves the tensor cores something to do while
// scores turn into weights: docs/hopper-backward.md has the schedule.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/gradient_products.h"
#include "cuda/hopper/backward/leave.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/sums.h"
#include "cuda/hopper/backward/weights.h"
#include "cuda/hopper/products.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {

// sums = dscores^T keys, of all the CTA's keys and some of the features.
template <typename Shape>
__device__ __forceinline__ void issue_sums(float (&sums)[Shape::kSumColumns / 2], uint32_t dscores,
                                           uint32_t keys) {
  issue_over_keys<typename Shape::Element, Shape::kRows / 16, kPanelRowBytes>(
      sums, ptx::wgmma_operand(dscores, 0), ptx::wgmma_operand(keys, 0), 0);
}

// dkey = dscores queries (+ dkey where `add` is not 0), of a warpgroup's keys.
template <typename Shape>
__device__ __forceinline__ void issue_dkey(float (&dkey)[Shape::kHeadDim / 2], uint32_t dscores,
                                           uint32_t queries, int add) {
  issue_over_queries<typename Shape::Element, Shape::kBlock / 16, kPanelRowBytes>(
      dkey, ptx::wgmma_operand(dscores, 0), ptx::wgmma_operand(queries, Shape::kStagePanelBytes),
      add);
}

template <typename Shape>
__device__ __forceinline__ void consume(const HopperBackwardArguments& arguments,
                                        HopperBackwardControl<Shape>& control, uint32_t base,
                                        int warpgroup) {
  constexpr int kSteps = Shape::kBlock / 16;
  constexpr int kScores = Shape::kBlock / 2;  // of a lane
  // Where this warpgroup's part of everything is.
  constexpr int kPartBytes = Shape::kPartBytes;
  static_assert(Shape::kLineBytes == kPanelRowBytes, "rows of 128 bytes");
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
  uint32_t weights[kSteps][4];

  const LanePlaces places;
  float2 deltas[kScores / 4];

  // Of the item's buffer.
  auto buffer_bytes = [&] { return row_place.stage * 2 * Shape::kRowBytes; };
  auto keys = [&] { return first_keys + buffer_bytes(); };
  auto values = [&] { return keys() + Shape::kRowBytes; };
  auto key_columns = [&] { return first_key_columns + buffer_bytes(); };
  auto arrive = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto arrive_once = [&](uint64_t& barrier) {
    __syncwarp();
    if (ptx::lane() == 0) arrive(barrier);
  };
  auto query_stage = [&](int stage) { return base + Shape::kQueryAt + stage * Shape::kStageBytes; };
  auto dout_stage = [&](int stage) { return base + Shape::kDoutAt + stage * Shape::kStageBytes; };

  auto wait_for_queries = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[query_place.stage]),
                       query_place.parity);
  };
  auto rows_seen = [&](const RowWords& words) {
    return RowsSeen(control.masks[query_place.stage][warpgroup], words);
  };
  auto issue_tile_scores = [&] {
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

  auto weigh = [&](const RowsSeen& rows) {
    find_weights(arguments, control, query_place.stage, rows, 0, scores, weights, places);
  };
  // The stage of the queries of the tile before.
  auto stage_before = [&] {
    return query_place.stage == 0 ? Shape::kQueryStages - 1 : query_place.stage - 1;
  };
  auto dscores = [&](uint32_t tile) {
    return base + Shape::kDscoreAt + tile % 2 * Shape::kDscoreBytes;
  };
  auto own_dscores = [&](uint32_t tile) { return dscores(tile) + warpgroup * kPartBytes; };
  auto add_sums = [&](uint32_t tile) {
    ptx::mbarrier_wait(ptx::shared_address(&control.empty_sums[0][warpgroup]), tile % 2 ^ 1);
    stage_sums<Shape>(sums, sums_to, 0, LanePlaces());  // found anew: few registers are left
    ptx::fence_async_shared();
    arrive(control.full_sums[0][warpgroup]);
  };

  auto store_results = [&](int slot) {
    // The other warpgroup is done with these keys.
    ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    store_gradients(arguments, control, slot, warpgroup, base + buffer_bytes(), dkey, dvalue);
    free_rows(control.empty_rows[row_place.stage]);
  };

  for (;; item_place.next()) {
    const int slot = item_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_rows[row_place.stage]), row_place.parity);
    const int total = item.total;
    const RowWords words(control, slot, LanePlaces());
    wait_for_queries();
    const RowsSeen first = rows_seen(words);
    issue_tile_scores();
    issue_tile_cotangents();
    ptx::wgmma_wait<1>();
    ptx::keep_here(scores);
    weigh(first);

    int tile = 0;
    for (;;) {
      ptx::wgmma_fence();
      issue_combination<Shape>(dvalue, weights, dout_stage(met % 2), tile > 0);
      ptx::wgmma_commit();
      read_statistics(control.delta[query_place.stage], places, deltas);
      ptx::wgmma_wait<1>();
      ptx::keep_here(cotangents);
      stage_dscores<typename Shape::Element, 0>(deltas, cotangents, weights, own_dscores(met),
                                                places);
      ptx::fence_async_shared();
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
      // Not a group of its own: the wait is for what was issued before.
      ptx::wgmma_fence();
      issue_sums<Shape>(sums, dscores(met), key_columns());
      if (tile > 0) arrive(control.empty_query[stage_before()]);
      ptx::wgmma_wait<0>();
      arrive_once(control.empty_dout[met % 2]);
      ++met;
      query_place.next();
      if (++tile == total) break;
      wait_for_queries();
      issue_tile_scores();
      ptx::wgmma_fence();
      issue_dkey<Shape>(dkey, own_dscores(met - 1), query_stage(stage_before()), tile > 1);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::keep_here(sums);
      ptx::keep_here(scores);
      const RowsSeen rows = rows_seen(words);
      add_sums(met - 1);
      issue_tile_cotangents();
      weigh(rows);
    }
    ptx::wgmma_commit();
    ptx::wgmma_fence();
    issue_dkey<Shape>(dkey, own_dscores(met - 1), query_stage(stage_before()), tile > 1);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    ptx::keep_here(sums);
    add_sums(met - 1);
    ptx::wgmma_wait<0>();
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    arrive(control.empty_query[stage_before()]);
    store_results(slot);
    row_place.next();
    arrive(control.done[slot]);
  }
}

}  // namespace jax_na::cuda
