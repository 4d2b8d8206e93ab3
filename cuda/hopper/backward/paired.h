// A consumer of the Hopper backward kernel for up to 64 features: one warpgroup, which has up to 64
// keys of every item.
//
// There are registers for the sums of a tile while the next one's gradients of scores are made. So
// warpgroups go apart by up to half a tile: each needs those of the other only when it has found
// the weights of the next one. Tiles that only one of them sees go by in pairs, in a step in which
// each warpgroup has its own, and is due sums over its own keys alone. docs/hopper-backward.md has
// the schedule.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/gradient_products.h"
#include "cuda/hopper/backward/leave.h"
#include "cuda/hopper/backward/pairs.h"
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

template <typename Shape>
__device__ __forceinline__ void consume_paired(const HopperBackwardArguments& arguments,
                                               HopperBackwardControl<Shape>& control, uint32_t base,
                                               int warpgroup) {
  constexpr int kSteps = Shape::kBlock / 16;
  constexpr int kScores = Shape::kBlock / 2;  // of a lane
  constexpr int kSums = Shape::kSumColumns / 2;
  constexpr int kPartBytes = Shape::kPartBytes;
  constexpr uint32_t kStages = Shape::kQueryStages;
  static_assert(Shape::kDoutStages == kStages, "a tile has one place");
  static_assert(Shape::kDscoreBuffers == 2 && Shape::kSumBuffers == 2, "places by parity");
  static_assert(Shape::kLineBytes == kPanelRowBytes, "rows of 128 bytes");
  // Where this warpgroup's part of everything is.
  const uint32_t first_keys = base + Shape::kKeyAt + warpgroup * kPartBytes;
  const int first_column = warpgroup * Shape::kSumColumns;
  const uint32_t first_key_columns = base + Shape::kKeyAt +
                                     first_column / kPanelElements * Shape::kRowPanelBytes +
                                     first_column % kPanelElements * 2;

  RingPlace<Shape::kRowBuffers> row_place;
  RingPlace<kItemsKnown> item_place;
  // In all items: tiles that were met, steps, and tiles whose sums have left.
  uint32_t tiles = 0, steps = 0, added = 0;
  float dkey[Shape::kHeadDim / 2], dvalue[Shape::kHeadDim / 2];
  float scores[kScores], cotangents[kScores];
  float sums[2][kSums];  // of a tile; of the second one of a pair
  uint32_t weights[kSteps][4];
  const LanePlaces places;
  float2 deltas[kScores / 4];

  auto arrive = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto arrive_once = [&](uint64_t& barrier) {
    __syncwarp();
    if (ptx::lane() == 0) arrive(barrier);
  };
  auto wait = [&](uint64_t& barrier, uint32_t parity) {
    ptx::mbarrier_wait(ptx::shared_address(&barrier), parity);
  };
  // Of the item's buffer.
  auto buffer_bytes = [&] { return row_place.stage * 2 * Shape::kRowBytes; };
  auto keys = [&] { return first_keys + buffer_bytes(); };
  auto place = [&](uint32_t tile) { return static_cast<int>(tile % kStages); };
  auto parity = [&](uint32_t tile) { return tile / kStages % 2; };
  auto queries = [&](uint32_t tile) {
    return base + Shape::kQueryAt + place(tile) * Shape::kStageBytes;
  };
  auto douts = [&](uint32_t tile) {
    return base + Shape::kDoutAt + place(tile) * Shape::kStageBytes;
  };
  auto dscores = [&](uint32_t step) {
    return base + Shape::kDscoreAt + step % 2 * Shape::kDscoreBytes;
  };
  auto own_dscores = [&](uint32_t step) { return dscores(step) + warpgroup * kPartBytes; };

  auto wait_for_queries = [&](const PairedStep& step) {
    const uint32_t tile = step.own(warpgroup);
    wait(control.full_query[place(tile)], parity(tile));
  };
  auto issue_step_scores = [&](const PairedStep& step) {
    ptx::wgmma_fence();
    issue_scores<Shape>(scores, keys(), queries(step.own(warpgroup)));
    ptx::wgmma_commit();
  };
  auto issue_step_cotangents = [&](const PairedStep& step) {
    const uint32_t tile = step.own(warpgroup);
    wait(control.full_dout[place(tile)], parity(tile));
    ptx::wgmma_fence();
    issue_scores<Shape>(cotangents, keys() + Shape::kRowBytes, douts(tile));
    ptx::wgmma_commit();
  };
  auto issue_step_dkey = [&](const PairedStep& step, int add) {
    const uint64_t a = ptx::wgmma_operand(own_dscores(steps), 0);
    const uint64_t b = ptx::wgmma_operand(queries(step.own(warpgroup)), Shape::kStagePanelBytes);
    ptx::wgmma_fence();
    issue_over_queries<typename Shape::Element, kSteps, kPanelRowBytes>(dkey, a, b, add);
    ptx::wgmma_commit();
  };
  // dscores^T keys, of each warpgroup's keys and some of the features; the other one's gradients of
  // scores have to be there.
  auto issue_step_sums = [&](const PairedStep& step) {
    wait(control.full_dscores[steps % 2], steps / 2 % 2);
    const uint64_t a = ptx::wgmma_operand(dscores(steps), 0);
    const uint64_t b = ptx::wgmma_operand(first_key_columns + buffer_bytes(), 0);
    ptx::wgmma_fence();
    auto issue_part = [&](float (&to)[kSums], int part, int add) {
      issue_over_keys<typename Shape::Element, kWarpgroupRows / 16, kPanelRowBytes>(
          to, ptx::wgmma_advance(a, part * kPartBytes), ptx::wgmma_advance(b, part * kPartBytes),
          add);
    };
    issue_part(sums[0], 0, 0);
    if (step.pair)
      issue_part(sums[1], 1, 0);
    else
      issue_part(sums[0], 1, 1);
    ptx::wgmma_commit();
  };
  auto leave_dscores = [&](const PairedStep& step) {
    wait(control.empty_dscores[steps % 2], steps / 2 % 2 ^ 1);
    read_statistics(control.delta[place(step.own(warpgroup))], places, deltas);
    stage_dscores<typename Shape::Element, 0>(deltas, cotangents, weights, own_dscores(steps),
                                              places);
    ptx::fence_async_shared();
    ptx::barrier_sync(kOneBarrier + warpgroup, 128);
    if (ptx::thread() % 128 == 0) arrive(control.full_dscores[steps % 2]);
  };
  // What a tile has of the sums of a step, to the copy engine.
  auto leave_sums = [&](const float (&of)[kSums]) {
    const int buffer = added % 2;
    wait(control.empty_sums[buffer][warpgroup], added / 2 % 2 ^ 1);
    stage_sums<Shape>(
        of, base + Shape::kSumAt + (buffer * Shape::kSumParts + warpgroup) * Shape::kSumBytes, 0,
        places);
    ptx::fence_async_shared();
    arrive(control.full_sums[buffer][warpgroup]);
    ++added;
  };
  auto keep_sums = [&] {
    ptx::keep_here(sums[0]);
    ptx::keep_here(sums[1]);
  };
  auto add_sums = [&](const PairedStep& step, uint32_t index) {
    arrive_once(control.empty_dscores[index % 2]);
    leave_sums(sums[0]);
    if (step.pair) leave_sums(sums[1]);
  };
  // A tile of the other warpgroup alone is given back when it has come, as its place was given back
  // for it by then.
  auto release_queries = [&](const PairedStep& step) {
    if (step.pair) {
      const uint32_t tile = step.other(warpgroup);
      wait(control.full_query[place(tile)], parity(tile));
      arrive(control.empty_query[place(tile)]);
    }
    arrive(control.empty_query[place(step.own(warpgroup))]);
  };
  auto release_douts = [&](const PairedStep& step) {
    if (step.pair) {
      const uint32_t tile = step.other(warpgroup);
      wait(control.full_dout[place(tile)], parity(tile));
      arrive_once(control.empty_dout[place(tile)]);
    }
    arrive_once(control.empty_dout[place(step.own(warpgroup))]);
  };

  // Gradients of the item before leave while the next one begins.
  static_assert(Shape::kRowBuffers == 2, "there is another buffer");
  bool leaving = false;
  auto free_rows_before = [&] { free_rows(control.empty_rows[1 - row_place.stage]); };

  for (;; item_place.next()) {
    const int slot = item_place.stage;
    wait(control.described[slot], item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) break;
    wait(control.full_rows[row_place.stage], row_place.parity);
    const uint32_t end = tiles + item.total;
    PairedSteps walk{item.axis[2].tiles, item.pairs};
    PairedStep before, step = walk.next(tiles);
    const RowWords words(control, slot, places);
    wait_for_queries(step);
    const TileView<kScores> first(control, place(step.own(warpgroup)), warpgroup, words, places);
    issue_step_scores(step);
    issue_step_cotangents(step);
    if (leaving) free_rows_before();
    ptx::wgmma_wait<1>();
    ptx::keep_here(scores);
    first.template weigh<typename Shape::Element>(arguments, scores, weights);
    // An empty group, so that the wait of the first round is for as many as that of others.
    ptx::wgmma_commit();

    bool begun = false;  // whether there was a step before
    for (;;) {
      ptx::wgmma_fence();
      issue_combination<Shape>(dvalue, weights, douts(step.own(warpgroup)), begun);
      ptx::wgmma_commit();
      ptx::wgmma_wait<2>();
      ptx::keep_here(cotangents);
      if (begun) release_queries(before);
      leave_dscores(step);
      tiles += step.tiles();
      if (tiles == end) break;
      const PairedStep next = walk.next(tiles);
      wait_for_queries(next);
      const TileView<kScores> view(control, place(next.own(warpgroup)), warpgroup, words, places);
      issue_step_scores(next);
      ptx::wgmma_wait<0>();
      keep_sums();
      ptx::keep_here(scores);
      release_douts(step);
      issue_step_dkey(step, begun);
      if (begun) add_sums(before, steps - 1);
      issue_step_cotangents(next);
      view.template weigh<typename Shape::Element>(arguments, scores, weights);
      issue_step_sums(step);
      before = step;
      step = next;
      begun = true;
      ++steps;
    }
    issue_step_dkey(step, begun);
    ptx::wgmma_wait<1>();
    keep_sums();
    release_douts(step);
    if (begun) add_sums(before, steps - 1);
    issue_step_sums(step);
    ptx::wgmma_wait<0>();
    keep_sums();
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    add_sums(step, steps);
    release_queries(step);
    ++steps;
    // The other warpgroup is done with these keys.
    ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    store_gradients(arguments, control, slot, warpgroup, base + buffer_bytes(), dkey, dvalue);
    leaving = true;
    row_place.next();
    arrive(control.done[slot]);
  }
  if (leaving) free_rows_before();
}

}  // namespace jax_na::cuda
