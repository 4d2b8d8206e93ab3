// A consumer of the kernel that leaves the gradient of the queries to another one: one warpgroup,
// which has up to 64 keys of every item.
//
// Nothing is added up in memory, and the warpgroups have nothing to tell each other: weights and
// the gradients of scores are operands of products from the registers that they are made in.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/leave.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/weights.h"
#include "cuda/hopper/products.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_keys(const HopperBackwardArguments& arguments,
                                             HopperBackwardControl<Shape>& control, uint32_t base,
                                             int warpgroup) {
  using T = typename Shape::Element;
  constexpr int kSteps = Shape::kBlock / 16;
  constexpr int kScores = Shape::kBlock / 2;  // of a lane
  static_assert(Shape::kLineBytes == kPanelRowBytes, "rows of 128 bytes");
  RingPlace<Shape::kRowBuffers> row_place;
  RingPlace<Shape::kQueryStages> query_place;
  RingPlace<Shape::kDoutStages> dout_place;
  RingPlace<kItemsKnown> item_place;
  float dkey[Shape::kHeadDim / 2], dvalue[Shape::kHeadDim / 2];
  float scores[kScores], cotangents[kScores];
  uint32_t weights[kSteps][4], dscores[kSteps][4];
  const LanePlaces places;

  // Of the item's buffer.
  auto rows = [&] { return base + row_place.stage * 2 * Shape::kRowBytes; };
  auto keys = [&] { return rows() + Shape::kKeyAt + warpgroup * Shape::kPartBytes; };
  auto arrive = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto arrive_once = [&](uint64_t& barrier) {
    __syncwarp();
    if (ptx::lane() == 0) arrive(barrier);
  };
  auto query_stage = [&](int stage) { return base + Shape::kQueryAt + stage * Shape::kStageBytes; };
  auto dout_stage = [&] { return base + Shape::kDoutAt + dout_place.stage * Shape::kStageBytes; };
  // The stage of the queries of the tile before.
  auto stage_before = [&] {
    return query_place.stage == 0 ? Shape::kQueryStages - 1 : query_place.stage - 1;
  };

  auto issue_tile_scores = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[query_place.stage]),
                       query_place.parity);
    ptx::wgmma_fence();
    issue_scores<Shape>(scores, keys(), query_stage(query_place.stage));
    ptx::wgmma_commit();
  };
  auto issue_tile_cotangents = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_dout[dout_place.stage]),
                       dout_place.parity);
    ptx::wgmma_fence();
    issue_scores<Shape>(cotangents, keys() + Shape::kRowBytes, dout_stage());
    ptx::wgmma_commit();
  };
  auto issue_tile_dvalue = [&](int add) {
    ptx::wgmma_fence();
    issue_combination<Shape>(dvalue, weights, dout_stage(), add);
    ptx::wgmma_commit();
  };
  // Of the tile before.
  auto issue_tile_dkey = [&](int add) {
    ptx::wgmma_fence();
    issue_combination<Shape>(dkey, dscores, query_stage(stage_before()), add);
    ptx::wgmma_commit();
  };
  auto release_dout = [&] {
    arrive_once(control.empty_dout[dout_place.stage]);
    dout_place.next();
  };
  auto weigh = [&](const RowWords& words) {
    const int stage = query_place.stage;
    find_weights(arguments, control, stage, RowsSeen(control.masks[stage][warpgroup], words), 0,
                 scores, weights, places);
  };
  auto find_tile_dscores = [&] {
    const float* deltas = control.delta[query_place.stage] + 2 * (ptx::lane() % 4);
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      find_dscores<T>(deltas, step, cotangents, 8 * step, weights[step], dscores[step]);
    query_place.next();
  };

  for (;; item_place.next()) {
    const int slot = item_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_rows[row_place.stage]), row_place.parity);
    const int total = item.total;
    const RowWords words(control, slot, places);
    issue_tile_scores();
    issue_tile_cotangents();
    ptx::wgmma_wait<1>();
    ptx::keep_here(scores);
    weigh(words);

    int tile = 0;
    for (;;) {
      issue_tile_dvalue(tile > 0);
      ptx::wgmma_wait<1>();
      ptx::keep_here(cotangents);
      if (tile > 0) arrive(control.empty_query[stage_before()]);
      find_tile_dscores();
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
      release_dout();
      issue_tile_cotangents();
      weigh(words);
    }
    issue_tile_dkey(tile > 1);
    ptx::wgmma_wait<0>();
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    release_dout();
    arrive(control.empty_query[stage_before()]);
    // All of this warpgroup are done with the keys; all of both, where its gradients leave from the
    // other's place too.
    if constexpr (Shape::kOutAsKeys)
      ptx::barrier_sync(kOneBarrier + warpgroup, 128);
    else
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    store_gradients(arguments, control, slot, warpgroup, rows(), dkey, dvalue);
    free_rows(control.empty_rows[row_place.stage]);
    row_place.next();
    arrive(control.done[slot]);
  }
}

}  // namespace jax_na::cuda
