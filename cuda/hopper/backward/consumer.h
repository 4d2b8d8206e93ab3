// A consumer of the Hopper backward kernel for up to 128 features: one warpgroup, which has up to
// 64 keys of every item.
//
// Scores and what becomes of them have keys as rows and queries as columns, so that weights are
// operands of products from the registers that they are made in. Here are the parts of a step;
// prompt_sums.h and late_sums.h put them in an order that leaves the tensor cores something to do
// while scores turn into weights. Tiles that only one warpgroup sees go by in pairs, in steps in
// which each warpgroup has its own.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
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
struct HopperBackwardConsumer {
  using T = typename Shape::Element;
  using Scores = float[Shape::kBlock / 2];  // of a lane
  using Weights = uint32_t[Shape::kBlock / 16][4];
  using Gradients = float[Shape::kHeadDim / 2];
  using Sums = float[Shape::kSumColumns / 2];
  static_assert(Shape::kLineBytes == kPanelRowBytes, "rows of 128 bytes");
  static_assert(Shape::kPairs && Shape::kWarpgroups == 2, "steps have a tile for each");

  const HopperBackwardArguments& arguments;
  HopperBackwardControl<Shape>& control;
  const uint32_t base;
  const int warpgroup;

  RingPlace<Shape::kRowBuffers> row_place;
  RingPlace<kItemsKnown> item_place;
  // In all items: tiles that were met, steps, and tiles whose sums have left.
  uint32_t tiles = 0, steps = 0, added = 0;
  uint32_t end = 0;  // of the item's tiles
  PairedSteps walk;
  PairedStep before, step;
  bool begun = false;  // whether there was a step before, in the item

  __device__ __forceinline__ HopperBackwardConsumer(const HopperBackwardArguments& arguments,
                                                    HopperBackwardControl<Shape>& control,
                                                    uint32_t base, int warpgroup)
      : arguments(arguments), control(control), base(base), warpgroup(warpgroup) {}

  __device__ __forceinline__ static void arrive(uint64_t& barrier) {
    ptx::mbarrier_arrive(ptx::shared_address(&barrier));
  }
  // For the lanes of a warp.
  __device__ __forceinline__ static void arrive_once(uint64_t& barrier) {
    __syncwarp();
    if (ptx::lane() == 0) arrive(barrier);
  }
  __device__ __forceinline__ static void wait(uint64_t& barrier, uint32_t parity) {
    ptx::mbarrier_wait(ptx::shared_address(&barrier), static_cast<int>(parity));
  }

  // What is counted in all items has places by its number.
  template <int kPlaces>
  __device__ __forceinline__ static int place(uint32_t number) {
    return static_cast<int>(number % kPlaces);
  }
  template <int kPlaces>
  __device__ __forceinline__ static uint32_t parity(uint32_t number) {
    return number / kPlaces % 2;
  }
  __device__ __forceinline__ static int query_place(uint32_t tile) {
    return place<Shape::kQueryStages>(tile);
  }
  __device__ __forceinline__ static int dout_place(uint32_t tile) {
    return place<Shape::kDoutStages>(tile);
  }
  __device__ __forceinline__ uint32_t queries(uint32_t tile) const {
    return base + Shape::kQueryAt + query_place(tile) * Shape::kStageBytes;
  }
  __device__ __forceinline__ uint32_t douts(uint32_t tile) const {
    return base + Shape::kDoutAt + dout_place(tile) * Shape::kStageBytes;
  }
  __device__ __forceinline__ uint32_t dscores() const {
    return base + Shape::kDscoreAt + place<Shape::kDscoreBuffers>(steps) * Shape::kDscoreBytes;
  }
  __device__ __forceinline__ uint32_t own_dscores() const {
    return dscores() + warpgroup * Shape::kPartBytes;
  }
  // The keys of the item's buffer.
  __device__ __forceinline__ uint32_t rows() const {
    return base + Shape::kKeyAt + row_place.stage * 2 * Shape::kRowBytes;
  }
  __device__ __forceinline__ uint32_t keys() const {
    return rows() + warpgroup * Shape::kPartBytes;
  }

  // Waits for an item; false where there is none any more.
  __device__ __forceinline__ bool begin_item() {
    const int slot = item_place.stage;
    wait(control.described[slot], item_place.parity);
    const HopperItem& item = control.items[slot];
    if (item.last) return false;
    wait(control.full_rows[row_place.stage], row_place.parity);
    end = tiles + item.total;
    walk = {item.axis[2].tiles, item.pairs};
    step = walk.next(tiles);
    begun = false;
    return true;
  }
  // When all products of the item are done.
  __device__ __forceinline__ void end_item(const Gradients& dkey, const Gradients& dvalue) {
    // The other warpgroup is done with these keys.
    ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    store_gradients(arguments, control, item_place.stage, warpgroup, rows() - Shape::kKeyAt,
                    control.empty_rows[row_place.stage], dkey, dvalue);
    row_place.next();
    arrive(control.done[item_place.stage]);
    item_place.next();
  }

  __device__ __forceinline__ void issue_scores_of(const PairedStep& of, Scores& scores) {
    const uint32_t tile = of.own(warpgroup);
    wait(control.full_query[query_place(tile)], parity<Shape::kQueryStages>(tile));
    ptx::wgmma_fence();
    issue_scores<Shape>(scores, keys(), queries(tile));
  }
  __device__ __forceinline__ void issue_cotangents_of(const PairedStep& of, Scores& cotangents) {
    const uint32_t tile = of.own(warpgroup);
    wait(control.full_dout[dout_place(tile)], parity<Shape::kDoutStages>(tile));
    ptx::wgmma_fence();
    issue_scores<Shape>(cotangents, keys() + Shape::kRowBytes, douts(tile));
    ptx::wgmma_commit();
  }
  __device__ __forceinline__ void weigh(Scores& scores, Weights& weights) const {
    find_weights(arguments, control, query_place(step.own(warpgroup)), warpgroup, 0, scores,
                 weights);
  }
  __device__ __forceinline__ void issue_dvalue(Gradients& dvalue, const Weights& weights) {
    ptx::wgmma_fence();
    issue_combination<Shape>(dvalue, weights, douts(step.own(warpgroup)), begun);
    ptx::wgmma_commit();
  }
  // dkey += dscores queries, of the warpgroup's keys.
  __device__ __forceinline__ void issue_dkey(Gradients& dkey) {
    const uint64_t a = ptx::wgmma_operand(own_dscores(), 0);
    const uint64_t b = ptx::wgmma_operand(queries(step.own(warpgroup)), Shape::kStagePanelBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < Shape::kBlock / 16; ++i)
      ptx::wgmma_by_rows<T, Shape::kHeadDim>(dkey, ptx::wgmma_advance(a, i * 32),
                                             ptx::wgmma_advance(b, i * 16 * kPanelRowBytes),
                                             i > 0 ? 1 : begun);
    ptx::wgmma_commit();
  }
  // sums = dscores^T keys (+ sums), of the keys of warpgroup `part` and some of the features.
  __device__ __forceinline__ void issue_sums(Sums& sums, int part, int add) {
    const int column = warpgroup * Shape::kSumColumns;
    const uint32_t columns =
        rows() + column / kPanelElements * Shape::kRowPanelBytes + column % kPanelElements * 2;
    const uint64_t a = ptx::wgmma_operand(dscores(), 0), b = ptx::wgmma_operand(columns, 0);
#pragma unroll
    for (int i = 0; i < kWarpgroupRows / 16; ++i) {
      const int at = part * Shape::kPartBytes + i * 16 * kPanelRowBytes;
      ptx::wgmma_by_depth<T, Shape::kSumColumns>(sums, ptx::wgmma_advance(a, at),
                                                 ptx::wgmma_advance(b, at), i > 0 ? 1 : add);
    }
  }

  __device__ __forceinline__ void leave_dscores(const Scores& cotangents, const Weights& weights) {
    wait(control.empty_dscores[place<Shape::kDscoreBuffers>(steps)],
         parity<Shape::kDscoreBuffers>(steps) ^ 1);
    stage_dscores<0>(control, query_place(step.own(warpgroup)), cotangents, weights, own_dscores());
    ptx::fence_async_shared();
  }
  // What a tile is due of the sums, to the copy engine.
  __device__ __forceinline__ void leave_sums(const Sums& sums) {
    const int buffer = place<Shape::kSumBuffers>(added);
    wait(control.empty_sums[buffer][warpgroup], parity<Shape::kSumBuffers>(added) ^ 1);
    stage_sums<Shape>(
        sums, base + Shape::kSumAt + (buffer * Shape::kSumParts + warpgroup) * Shape::kSumBytes, 0);
    ptx::fence_async_shared();
    arrive(control.full_sums[buffer][warpgroup]);
    ++added;
  }
  // A tile of the other warpgroup alone is given back when it has come: its place was given back by
  // all before that.
  __device__ __forceinline__ void release_queries(const PairedStep& of) {
    if (of.pair) {
      const uint32_t tile = of.other(warpgroup);
      wait(control.full_query[query_place(tile)], parity<Shape::kQueryStages>(tile));
      arrive(control.empty_query[query_place(tile)]);
    }
    arrive(control.empty_query[query_place(of.own(warpgroup))]);
  }
  __device__ __forceinline__ void release_douts(const PairedStep& of) {
    if (of.pair) {
      const uint32_t tile = of.other(warpgroup);
      wait(control.full_dout[dout_place(tile)], parity<Shape::kDoutStages>(tile));
      arrive_once(control.empty_dout[dout_place(tile)]);
    }
    arrive_once(control.empty_dout[dout_place(of.own(warpgroup))]);
  }
};

}  // namespace jax_na::cuda
