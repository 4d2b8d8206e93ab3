// Consumers of the kernel that leaves the gradient of the queries to another one, of which a
// multiprocessor has those of two CTAs: for heads of few features.
//
// As in light.h a warpgroup does one thing after the other, and what it waits for runs beside the
// arithmetic of three others. Weights become the gradients of scores in the registers that they are
// made in, half of the queries at a time: ptxas has no room for the cotangents of more weights.
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
__device__ __forceinline__ void consume_light_keys(const HopperBackwardArguments& arguments,
                                                   HopperBackwardControl<Shape>& control,
                                                   uint32_t base, int warpgroup) {
  using T = typename Shape::Element;
  constexpr int kSteps = Shape::kBlock / 16, kHalf = Shape::kBlock / 2;
  static_assert(Shape::kQueryStages == Shape::kDoutStages, "a tile has one place");
  static_assert(Shape::kRowBuffers == 2, "places by parity");
  static_assert(Shape::kOutAsKeys, "gradients leave from the place of the warpgroup's own keys");
  RingPlace<Shape::kQueryStages> tile_place;
  uint32_t items = 0;
  float dkey[Shape::kHeadDim / 2], dvalue[Shape::kHeadDim / 2];
  float scores[Shape::kBlock / 2], cotangents[kHalf / 2];
  uint32_t weights[kSteps][4];
  const LanePlaces places;

  auto rows = [&] { return base + items % 2 * 2 * Shape::kRowBytes; };
  auto keys = [&] { return rows() + Shape::kKeyAt + warpgroup * Shape::kPartBytes; };
  auto queries = [&] { return base + Shape::kQueryAt + tile_place.stage * Shape::kStageBytes; };
  auto douts = [&] { return base + Shape::kDoutAt + tile_place.stage * Shape::kStageBytes; };
  auto arrive = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto issue_tile_scores = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[tile_place.stage]),
                       tile_place.parity);
    ptx::wgmma_fence();
    issue_scores<Shape>(scores, keys(), queries());
    ptx::wgmma_commit();
  };
  // The cotangents of the weights of half of the queries, and the gradients of their scores, for
  // which the weights make room.
  auto issue_half = [&](int half) {
    const uint64_t a = ptx::wgmma_operand<Shape::kLineBytes>(keys() + Shape::kRowBytes, 0);
    const uint64_t b =
        ptx::wgmma_operand<Shape::kLineBytes>(douts() + half * kHalf * Shape::kLineBytes, 0);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < Shape::kHeadDim / 16; ++step)
      ptx::wgmma<T, kHalf>(cotangents, ptx::wgmma_advance(a, 32 * step),
                           ptx::wgmma_advance(b, 32 * step), step > 0);
    ptx::wgmma_commit();
  };
  auto find_half = [&](int half) {
    const float* deltas = control.delta[tile_place.stage] + 2 * (ptx::lane() % 4);
#pragma unroll
    for (int i = 0; i < kSteps / 2; ++i) {
      const int step = half * kSteps / 2 + i;
      find_dscores<T>(deltas, step, cotangents, 8 * i, weights[step], weights[step]);
    }
  };

  for (;; ++items) {
    const uint32_t slot = items % kItemsKnown;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), items / kItemsKnown % 2);
    if (control.items[slot].last) break;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_rows[items % 2]), items / 2 % 2);
    int left = control.items[slot].total;
    const RowWords words(control, slot, places);
    issue_tile_scores();
    for (bool begun = false;; begun = true) {
      const int stage = tile_place.stage;
      ptx::wgmma_wait<0>();
      ptx::keep_here(scores);
      find_weights(arguments, control, stage, RowsSeen(control.masks[stage][warpgroup], words), 0,
                   scores, weights, places);
      ptx::mbarrier_wait(ptx::shared_address(&control.full_dout[stage]), tile_place.parity);
      issue_half(0);
      issue_combination<Shape>(dvalue, weights, douts(), begun);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::keep_here(cotangents);
      ptx::keep_here(dvalue);
      find_half(0);
      issue_half(1);
      ptx::wgmma_wait<0>();
      ptx::keep_here(cotangents);
      find_half(1);
      __syncwarp();
      if (ptx::lane() == 0) arrive(control.empty_dout[stage]);
      ptx::wgmma_fence();
      issue_combination<Shape>(dkey, weights, queries(), begun);
      ptx::wgmma_commit();
      tile_place.next();
      ptx::wgmma_wait<0>();
      ptx::keep_here(dkey);
      arrive(control.empty_query[stage]);
      if (--left == 0) break;
      issue_tile_scores();
    }
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    // All of this warpgroup are done with the keys.
    ptx::barrier_sync(kOneBarrier + warpgroup, 128);
    const uint32_t slot_now = items % kItemsKnown;
    store_gradients(arguments, control, slot_now, warpgroup, rows(), dkey, dvalue);
    free_rows(control.empty_rows[items % 2]);
    arrive(control.done[slot_now]);
  }
}

}  // namespace jax_na::cuda
