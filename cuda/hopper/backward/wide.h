// Consumers of heads so wide that the gradients of 64 keys and of their values are more than the
// registers of a warpgroup hold: two warpgroups have the same keys.
//
// A warpgroup makes the scores of half of a tile's queries, and shows weights and gradients of
// scores to the other in shared memory. Of all gradients it has half of the features: 64 in a panel
// of their own, and the rest in the next panel or in half of the one in the middle.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/backward/additional.h"
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
#include "cuda/ptx/stmatrix.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

// Half of the features of 64 rows.
template <typename Shape>
struct WideHalf {
  static constexpr int kFirst = kPanelElements, kSecond = Shape::kSecondColumns;
  float first[kFirst / 2], second[kSecond / 2];
};

// Where a warpgroup's features are in panels of rows, in bytes.
template <typename Shape>
__device__ __forceinline__ uint32_t wide_place(int round, int warpgroup, int panel_bytes) {
  const int column = Shape::sum_column(round, warpgroup);
  return column / kPanelElements * panel_bytes + column % kPanelElements * 2;
}

// scores = rows columns^T, of half of a tile's columns.
template <typename Shape>
__device__ __forceinline__ void issue_half_scores(float (&scores)[Shape::kBlock / 4], uint32_t rows,
                                                  uint32_t columns) {
  const uint64_t a = ptx::wgmma_operand(rows, 0), b = ptx::wgmma_operand(columns, 0);
#pragma unroll
  for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
    const int panel = step / 4, within = 32 * (step % 4);
    ptx::wgmma<typename Shape::Element, Shape::kBlock / 2>(
        scores, ptx::wgmma_advance(a, panel * Shape::kRowPanelBytes + within),
        ptx::wgmma_advance(b, panel * Shape::kStagePanelBytes + within), step > 0);
  }
}

// out = scores columns (+ out where `add` is not 0), where columns are some features of a tile.
template <typename Shape, int kCount>
__device__ __forceinline__ void issue_gradient(float (&out)[kCount], uint32_t scores,
                                               uint32_t columns, int add) {
  issue_over_queries<typename Shape::Element, Shape::kBlock / 16, kPanelRowBytes>(
      out, ptx::wgmma_operand(scores, 0), ptx::wgmma_operand(columns, 0), add);
}

// sums = dscores^T keys, where keys are some features of them.
template <typename Shape, int kCount>
__device__ __forceinline__ void issue_wide_sums(float (&sums)[kCount], uint32_t dscores,
                                                uint32_t keys) {
  issue_over_keys<typename Shape::Element, Shape::kRows / 16, kPanelRowBytes>(
      sums, ptx::wgmma_operand(dscores, 0), ptx::wgmma_operand(keys, 0), 0);
}

// Writes four words of a warp's 16 rows, of the 16 elements from chunk 2 * step of 16 bytes on.
__device__ __forceinline__ void stage_step(const uint32_t (&words)[4], uint32_t to, int step) {
  const int lane = ptx::lane(), row = ptx::thread() % 128 / 32 * 16 + lane % 16;
  ptx::stmatrix(to + row * kPanelRowBytes + ((2 * step + lane / 16) ^ (row & 7)) * 16, words);
}

// Writes results of a warpgroup to the panel at `to`, from chunk 2 * first on.
template <typename T, int kCount>
__device__ __forceinline__ void stage_half(const float (&out)[kCount], float factor, uint32_t to,
                                           int first) {
#pragma unroll
  for (int step = 0; step < kCount / 8; ++step) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      words[i] = pack(out[8 * step + 2 * i] * factor, out[8 * step + 2 * i + 1] * factor, T());
    stage_step(words, to, first + step);
  }
}

// Writes gradients to the place of the keys and values, which nobody reads any more, and on to the
// tensors: warpgroup 0 those of the keys, warpgroup 1 those of the values; or those of
// additional keys to their sums. Frees the place.
template <typename Shape>
__device__ __forceinline__ void store_wide_gradients(const HopperBackwardArguments& arguments,
                                                     HopperBackwardControl<Shape>& control,
                                                     int slot, int warpgroup, uint32_t base,
                                                     const WideHalf<Shape>& dkey,
                                                     const WideHalf<Shape>& dvalue) {
  using T = typename Shape::Element;
  const HopperItem& item = control.items[slot];
  if (const int additional = control.additional[slot]; additional >= 0) {
    const int part = Shape::kSums ? 0 : control.part[slot];
    add_gradients<Shape::kSums>(arguments, item, part, additional, Shape::sum_column(0, warpgroup),
                                dkey.first, dvalue.first);
    add_gradients<Shape::kSums>(arguments, item, part, additional, Shape::sum_column(1, warpgroup),
                                dkey.second, dvalue.second);
    if (ptx::thread() % 128 == 0) ptx::mbarrier_arrive(ptx::shared_address(&control.empty_rows[0]));
    return;
  }
  const float scale = static_cast<float>(arguments.problem.scale);
#pragma unroll
  for (int round = 0; round < 2; ++round) {
    const int column = Shape::sum_column(round, warpgroup);
    const uint32_t to = base + Shape::kKeyAt + column / kPanelElements * Shape::kRowPanelBytes;
    const int first = column % kPanelElements / 16;
    if (round == 0) {
      stage_half<T>(dkey.first, scale, to, first);
      stage_half<T>(dvalue.first, 1.f, to + Shape::kRowBytes, first);
    } else {
      stage_half<T>(dkey.second, scale, to, first);
      stage_half<T>(dvalue.second, 1.f, to + Shape::kRowBytes, first);
    }
  }
  ptx::fence_async_shared();
  ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
  if (ptx::thread() % 128 != 0) return;
  const CUtensorMap* map = warpgroup == 0 ? &arguments.dkey : &arguments.dvalue;
  const uint32_t from = base + (warpgroup == 0 ? Shape::kKeyAt : Shape::kValueAt);
#pragma unroll
  for (int panel = 0; panel < Shape::kPanels; ++panel) {
    if (panel * kPanelElements >= arguments.problem.head_dim) break;
    const MapPlace place(arguments.plan, Shape::kHeadDim, item.head, panel * kPanelElements,
                         item.axis[2].row, item.axis[1].row, item.axis[0].row, item.entry);
    ptx::tma_store(map, from + panel * Shape::kOutPanelBytes, place.at[0], place.at[1], place.at[2],
                   place.at[3], place.at[4]);
  }
  ptx::tma_store_commit();
  ptx::tma_store_wait_read();
  ptx::mbarrier_arrive(ptx::shared_address(&control.empty_rows[0]));
}

template <typename Shape>
__device__ __forceinline__ void consume_wide(const HopperBackwardArguments& arguments,
                                             HopperBackwardControl<Shape>& control, uint32_t base,
                                             int warpgroup) {
  using T = typename Shape::Element;
  constexpr int kHalf = Shape::kBlock / 2, kSteps = kHalf / 16;
  static_assert(Shape::kRowBuffers == 1, "one place of keys and values");
  RingPlace<Shape::kQueryStages> query_place;
  RingPlace<Shape::kDoutStages> dout_place;
  uint32_t items = 0;
  WideHalf<Shape> dkey, dvalue, sums;
  float scores[kHalf / 2], cotangents[kHalf / 2];
  uint32_t weights[kSteps][4];
  const LanePlaces places;

  const uint32_t keys = base + Shape::kKeyAt, values = base + Shape::kValueAt;
  const uint32_t staged_weights = base + Shape::kWeightAt, dscores = base + Shape::kDscoreAt;
  auto queries = [&](int stage) { return base + Shape::kQueryAt + stage * Shape::kStageBytes; };
  auto douts = [&] { return base + Shape::kDoutAt + dout_place.stage * Shape::kStageBytes; };
  auto arrive = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto arrive_once = [&](uint64_t& barrier) {
    __syncwarp();
    if (ptx::lane() == 0) arrive(barrier);
  };
  auto issue_tile_scores = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[query_place.stage]),
                       query_place.parity);
    ptx::wgmma_fence();
    issue_half_scores<Shape>(scores, keys,
                             queries(query_place.stage) + warpgroup * kHalf * kPanelRowBytes);
    ptx::wgmma_commit();
  };
  // Each round has one parity, since a tile has two.
  auto add_sums = [&](const auto& of, int round) {
    ptx::mbarrier_wait(ptx::shared_address(&control.empty_sums[0][warpgroup]), round ^ 1);
    stage_sums<Shape>(of, base + Shape::kSumAt + warpgroup * Shape::kSumBytes, 0, places);
    ptx::fence_async_shared();
    arrive(control.full_sums[0][warpgroup]);
  };
  auto issue_both = [&](WideHalf<Shape>& out, uint32_t of, uint32_t columns, bool add) {
    issue_gradient<Shape>(out.first, of,
                          columns + wide_place<Shape>(0, warpgroup, Shape::kStagePanelBytes), add);
    issue_gradient<Shape>(out.second, of,
                          columns + wide_place<Shape>(1, warpgroup, Shape::kStagePanelBytes), add);
  };

  for (;; ++items) {
    const uint32_t slot = items % kItemsKnown;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), items / kItemsKnown % 2);
    if (control.items[slot].last) break;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_rows[0]), items % 2);
    int left = control.items[slot].total;
    const RowWords words(control, slot, places);
    issue_tile_scores();
    ptx::wgmma_wait<0>();
    ptx::keep_here(scores);
    for (bool begun = false;; begun = true) {
      const int stage = query_place.stage;
      ptx::mbarrier_wait(ptx::shared_address(&control.full_dout[dout_place.stage]),
                         dout_place.parity);
      ptx::wgmma_fence();
      issue_half_scores<Shape>(cotangents, values, douts() + warpgroup * kHalf * kPanelRowBytes);
      ptx::wgmma_commit();
      find_weights(arguments, control, stage, RowsSeen(control.masks[stage][0], words),
                   warpgroup * kHalf, scores, weights, places);
      // Both are done with the weights of the tile before.
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
#pragma unroll
      for (int i = 0; i < kSteps; ++i)
        stage_step(weights[i], staged_weights, warpgroup * kSteps + i);
      ptx::wgmma_wait<0>();
      ptx::keep_here(cotangents);
      const float* deltas = control.delta[stage] + warpgroup * kHalf + 2 * (ptx::lane() % 4);
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        uint32_t words[4];
        find_dscores<T>(deltas, i, cotangents, 8 * i, weights[i], words);
        stage_step(words, dscores, warpgroup * kSteps + i);
      }
      ptx::fence_async_shared();
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
      ptx::wgmma_fence();
      issue_wide_sums<Shape>(sums.first, dscores,
                             keys + wide_place<Shape>(0, warpgroup, Shape::kRowPanelBytes));
      issue_both(dvalue, staged_weights, douts(), begun);
      ptx::wgmma_commit();
      issue_both(dkey, dscores, queries(stage), begun);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::keep_here(sums.first);
      arrive_once(control.empty_dout[dout_place.stage]);
      dout_place.next();
      add_sums(sums.first, 0);
      ptx::wgmma_fence();
      issue_wide_sums<Shape>(sums.second, dscores,
                             keys + wide_place<Shape>(1, warpgroup, Shape::kRowPanelBytes));
      ptx::wgmma_commit();
      query_place.next();
      if (--left == 0) break;
      issue_tile_scores();
      ptx::wgmma_wait<0>();
      ptx::keep_here(sums.second);
      ptx::keep_here(scores);
      arrive(control.empty_query[stage]);
      add_sums(sums.second, 1);
    }
    ptx::wgmma_wait<0>();
    ptx::keep_here(sums.second);
    ptx::keep_here(dkey.first);
    ptx::keep_here(dkey.second);
    ptx::keep_here(dvalue.first);
    ptx::keep_here(dvalue.second);
    arrive(control.empty_query[query_place.stage ^ 1]);
    add_sums(sums.second, 1);
    // The other warpgroup is done with these keys.
    ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
    const uint32_t slot_now = items % kItemsKnown;
    store_wide_gradients(arguments, control, slot_now, warpgroup, base, dkey, dvalue);
    arrive(control.done[slot_now]);
  }
}

}  // namespace jax_na::cuda
