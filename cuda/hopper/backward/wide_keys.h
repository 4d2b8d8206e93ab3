// Consumers of wide heads, of the kernel that leaves the gradient of the queries to another one: as
// in wide.h two warpgroups have the same keys, and show each other weights and the gradients of
// scores in shared memory.
//
// The scores of the next tile and the cotangents of its weights are issued behind the products that
// the present tile ends with. Ahead of them, with the arithmetic beside those products, they were
// slower: the next queries take the place of the ones before, and come late.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/leave.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/weights.h"
#include "cuda/hopper/backward/wide.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_wide_keys(const HopperBackwardArguments& arguments,
                                                  HopperBackwardControl<Shape>& control,
                                                  uint32_t base, int warpgroup) {
  using T = typename Shape::Element;
  constexpr int kHalf = Shape::kBlock / 2, kSteps = kHalf / 16;
  static_assert(Shape::kRowBuffers == 1, "one place of keys and values");
  static_assert(Shape::kQueryStages == 2 && Shape::kDoutStages == 2, "places by parity");
  uint32_t items = 0, tiles = 0;  // tiles: whose scores were issued, in all items
  WideHalf<Shape> dkey, dvalue;
  float scores[kHalf / 2], cotangents[kHalf / 2];
  uint32_t weights[kSteps][4], dscores[kSteps][4];
  const LanePlaces places;

  const uint32_t keys = base + Shape::kKeyAt, values = base + Shape::kValueAt;
  const uint32_t staged_weights = base + Shape::kWeightAt;
  const uint32_t staged_dscores = base + Shape::kDscoreAt;
  auto queries = [&](uint32_t tile) {
    return base + Shape::kQueryAt + tile % 2 * Shape::kStageBytes;
  };
  auto douts = [&](uint32_t tile) { return base + Shape::kDoutAt + tile % 2 * Shape::kStageBytes; };
  auto arrive = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto issue_tile = [&] {
    constexpr int kOwnBytes = kHalf * kPanelRowBytes;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[tiles % 2]), tiles / 2 % 2);
    ptx::mbarrier_wait(ptx::shared_address(&control.full_dout[tiles % 2]), tiles / 2 % 2);
    ptx::wgmma_fence();
    issue_half_scores<Shape>(scores, keys, queries(tiles) + warpgroup * kOwnBytes);
    issue_half_scores<Shape>(cotangents, values, douts(tiles) + warpgroup * kOwnBytes);
    ptx::wgmma_commit();
    ++tiles;
  };
  auto issue_both = [&](WideHalf<Shape>& out, uint32_t of, uint32_t columns, bool add) {
    issue_gradient<Shape>(out.first, of,
                          columns + wide_place<Shape>(0, warpgroup, Shape::kStagePanelBytes), add);
    issue_gradient<Shape>(out.second, of,
                          columns + wide_place<Shape>(1, warpgroup, Shape::kStagePanelBytes), add);
  };
  // Weights and the gradients of scores of the tile that was issued last.
  auto find_tile = [&](const RowWords& words) {
    ptx::keep_here(scores);
    ptx::keep_here(cotangents);
    const int stage = (tiles - 1) % 2;
    find_weights(arguments, control, stage, RowsSeen(control.masks[stage][0], words),
                 warpgroup * kHalf, scores, weights, places);
    const float* deltas = control.delta[stage] + warpgroup * kHalf + 2 * (ptx::lane() % 4);
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      find_dscores<T>(deltas, i, cotangents, 8 * i, weights[i], dscores[i]);
  };
  auto keep_gradients = [&] {
    ptx::keep_here(dkey.first);
    ptx::keep_here(dkey.second);
    ptx::keep_here(dvalue.first);
    ptx::keep_here(dvalue.second);
  };
  auto release = [&](uint32_t tile) {
    arrive(control.empty_query[tile % 2]);
    __syncwarp();
    if (ptx::lane() == 0) arrive(control.empty_dout[tile % 2]);
  };

  for (;; ++items) {
    const uint32_t slot = items % kItemsKnown;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), items / kItemsKnown % 2);
    if (control.items[slot].last) break;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_rows[0]), items % 2);
    int left = control.items[slot].total;
    const RowWords words(control, slot, places);
    issue_tile();
    ptx::wgmma_wait<0>();
    find_tile(words);
    for (bool begun = false;; begun = true) {
      const uint32_t tile = tiles - 1;
      // Both are done with what is staged of the tile before.
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        stage_step(weights[i], staged_weights, warpgroup * kSteps + i);
        stage_step(dscores[i], staged_dscores, warpgroup * kSteps + i);
      }
      ptx::fence_async_shared();
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
      ptx::wgmma_fence();
      issue_both(dvalue, staged_weights, douts(tile), begun);
      issue_both(dkey, staged_dscores, queries(tile), begun);
      ptx::wgmma_commit();
      if (--left == 0) break;
      // Behind the products that make room for the queries of the tile after it.
      issue_tile();
      ptx::wgmma_wait<1>();
      keep_gradients();
      release(tile);
      ptx::wgmma_wait<0>();
      find_tile(words);
    }
    ptx::wgmma_wait<0>();
    keep_gradients();
    release(tiles - 1);
    // The other warpgroup is done with these keys.
    ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    const uint32_t slot_now = items % kItemsKnown;
    store_wide_gradients(arguments, control, slot_now, warpgroup, base, dkey, dvalue);
    arrive(control.done[slot_now]);
  }
}

}  // namespace jax_na::cuda
