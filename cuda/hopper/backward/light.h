// Consumers of which a multiprocessor has those of two CTAs, with fewer registers each: for heads
// of few features, where the arithmetic of weights takes longer than the products.
//
// A warpgroup does one thing after the other, and what it waits for runs beside the arithmetic of
// the other CTA. So scores and the cotangents of weights never need registers at the same time, and
// of the latter there is half a tile at a time. Rows of keys, queries and their like have 64 bytes.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/gradient_products.h"
#include "cuda/hopper/backward/leave.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/sums.h"
#include "cuda/hopper/backward/weights.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {

// The products of a light consumer, of tensors with one panel.
template <typename Shape>
struct LightProducts {
  using T = typename Shape::Element;
  static constexpr int kLine = Shape::kLineBytes;
  static constexpr int kRowSteps = Shape::kRows / 16, kColumnSteps = Shape::kBlock / 16;
  static_assert(Shape::kPanels == 1, "one panel");

  // scores = rows columns^T.
  template <int kScores>
  static __device__ __forceinline__ void scores(float (&scores)[kScores], uint32_t rows,
                                                uint32_t columns) {
    const uint64_t a = ptx::wgmma_operand<kLine>(rows, 0);
    const uint64_t b = ptx::wgmma_operand<kLine>(columns, 0);
#pragma unroll
    for (int step = 0; step < Shape::kHeadDim / 16; ++step)
      ptx::wgmma<T, 2 * kScores>(scores, ptx::wgmma_advance(a, 32 * step),
                                 ptx::wgmma_advance(b, 32 * step), step > 0);
  }
  // dvalue = weights dout (+ dvalue where `add` is not 0).
  static __device__ __forceinline__ void dvalue(float (&dvalue)[Shape::kHeadDim / 2],
                                                const uint32_t (&weights)[kColumnSteps][4],
                                                uint32_t dout, int add) {
    const uint64_t b = ptx::wgmma_operand<kLine>(dout, 0);
#pragma unroll
    for (int step = 0; step < kColumnSteps; ++step)
      ptx::wgmma<T, Shape::kHeadDim>(dvalue, weights[step],
                                     ptx::wgmma_advance(b, step * 16 * kLine), step > 0 ? 1 : add);
  }
  // dkey = dscores queries (+ dkey where `add` is not 0), of a warpgroup's keys.
  static __device__ __forceinline__ void dkey(float (&dkey)[Shape::kHeadDim / 2], uint32_t dscores,
                                              uint32_t queries, int add) {
    issue_over_queries<T, kColumnSteps, kLine>(dkey, ptx::wgmma_operand(dscores, 0),
                                               ptx::wgmma_operand<kLine>(queries, 0), add);
  }
  // sums = dscores^T keys, of all the CTA's keys and some of the features.
  static __device__ __forceinline__ void sums(float (&sums)[Shape::kSumColumns / 2],
                                              uint32_t dscores, uint32_t keys) {
    issue_over_keys<T, kRowSteps, kLine>(sums, ptx::wgmma_operand(dscores, 0),
                                         ptx::wgmma_operand<kLine>(keys, 0), 0);
  }
};

template <typename Shape>
__device__ __forceinline__ void consume_light(const HopperBackwardArguments& arguments,
                                              HopperBackwardControl<Shape>& control, uint32_t base,
                                              int warpgroup) {
  using Products = LightProducts<Shape>;
  constexpr int kSteps = Shape::kBlock / 16, kHalf = Shape::kBlock / 2;
  static_assert(Shape::kQueryStages == Shape::kDoutStages, "a tile has one place");
  static_assert(Shape::kDscoreBuffers == 2 && Shape::kSumParts == 1, "places by parity, one part");
  static_assert(Shape::kRowBuffers == 2, "places by parity");
  RingPlace<Shape::kQueryStages> tile_place;
  // Counted in all: of places that are many times as many, the lower bits or the remainder.
  uint32_t items = 0, tiles = 0;
  float dkey[Shape::kHeadDim / 2], dvalue[Shape::kHeadDim / 2];
  float sums[Shape::kSumColumns / 2], scores[Shape::kBlock / 2], cotangents[kHalf / 2];
  uint32_t weights[kSteps][4];
  const LanePlaces places;
  float2 deltas[kHalf / 8];

  auto rows = [&] { return base + items % 2 * 2 * Shape::kRowBytes; };
  auto keys = [&] { return rows() + Shape::kKeyAt + warpgroup * Shape::kPartBytes; };
  auto values = [&] { return keys() + Shape::kRowBytes; };
  auto queries = [&](int stage) { return base + Shape::kQueryAt + stage * Shape::kStageBytes; };
  auto douts = [&](int stage) { return base + Shape::kDoutAt + stage * Shape::kStageBytes; };
  auto arrive = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto arrive_once = [&](uint64_t& barrier) {
    __syncwarp();
    if (ptx::lane() == 0) arrive(barrier);
  };
  auto issue_tile_scores = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[tile_place.stage]),
                       tile_place.parity);
    ptx::wgmma_fence();
    Products::scores(scores, keys(), queries(tile_place.stage));
    ptx::wgmma_commit();
  };
  auto release = [&](int stage) {
    arrive(control.empty_query[stage]);
    arrive_once(control.empty_dout[stage]);
  };
  auto add_sums = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.empty_sums[0][0]), tiles % 2 ^ 1);
    stage_sums<Shape>(sums, base + Shape::kSumAt, warpgroup, places);
    ptx::fence_async_shared();
    arrive(control.full_sums[0][0]);
    ++tiles;
  };

  for (;; ++items) {
    const uint32_t slot = items % kItemsKnown;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), items / kItemsKnown % 2);
    if (control.items[slot].last) break;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_rows[items % 2]), items / 2 % 2);
    int left = control.items[slot].total;
    const RowWords words(control, slot, places);
    issue_tile_scores();
    ptx::wgmma_wait<0>();
    ptx::keep_here(scores);
    for (bool begun = false;; begun = true) {
      const int stage = tile_place.stage;
      find_weights(arguments, control, stage, RowsSeen(control.masks[stage][warpgroup], words), 0,
                   scores, weights, places);
      ptx::mbarrier_wait(ptx::shared_address(&control.full_dout[stage]), tile_place.parity);
      const uint32_t staged = base + Shape::kDscoreAt + tiles % 2 * Shape::kDscoreBytes;
      const uint32_t own = staged + warpgroup * kWarpgroupRows * kPanelRowBytes;
      auto stage_half = [&](auto half) {
        read_statistics(control.delta[stage] + half * kHalf, places, deltas);
        stage_dscores<typename Shape::Element, half * kSteps / 2>(deltas, cotangents, weights, own,
                                                                  places);
      };
      ptx::wgmma_fence();
      Products::scores(cotangents, values(), douts(stage));
      ptx::wgmma_commit();
      Products::dvalue(dvalue, weights, douts(stage), begun);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::keep_here(cotangents);
      stage_half(std::integral_constant<int, 0>());
      ptx::wgmma_fence();
      Products::scores(cotangents, values(), douts(stage) + kHalf * Shape::kLineBytes);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::keep_here(cotangents);
      stage_half(std::integral_constant<int, 1>());
      ptx::fence_async_shared();
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
      ptx::wgmma_fence();
      Products::sums(sums, staged, rows() + Shape::kKeyAt + warpgroup * 2 * Shape::kSumColumns);
      ptx::wgmma_commit();
      Products::dkey(dkey, own, queries(stage), begun);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::keep_here(sums);
      add_sums();
      tile_place.next();
      if (--left == 0) break;
      issue_tile_scores();
      ptx::wgmma_wait<0>();
      ptx::keep_here(scores);
      release(stage);
    }
    ptx::wgmma_wait<0>();
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    release(tile_place.stage == 0 ? Shape::kQueryStages - 1 : tile_place.stage - 1);
    // The other warpgroup is done with these keys.
    ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    const uint32_t slot_now = items % kItemsKnown;
    store_gradients(arguments, control, slot_now, warpgroup, rows(), dkey, dvalue);
    free_rows(control.empty_rows[items % 2]);
    arrive(control.done[slot_now]);
  }
}

}  // namespace jax_na::cuda
