// A consumer of the Hopper kernel: one warpgroup, which has up to 64 queries of every item.
//
// The scores of a tile are computed while the values of the tile before are added up, across the
// end of an item too, and the softmax of a tile runs under the products of the other warpgroup:
// named barriers make the warpgroups take turns at issuing products.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/shared.h"
#include "cuda/hopper/softmax.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/stmatrix.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

constexpr int kTurnBarrier = 1;  // and following, one for each warpgroup
constexpr int kOwnBarrier = kTurnBarrier + kMostWarpgroups;

// scores = queries keys^T, of a warpgroup's queries and a tile's keys.
template <typename Shape>
__device__ __forceinline__ void issue_scores(float (&scores)[Shape::kBlock / 2], uint32_t queries,
                                             uint32_t keys) {
  const uint64_t a = ptx::wgmma_operand(queries, 0), b = ptx::wgmma_operand(keys, 0);
#pragma unroll
  for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
    const int panel = step / 4, within = 32 * (step % 4);
    ptx::wgmma<typename Shape::Element, Shape::kBlock>(
        scores, ptx::wgmma_advance(a, panel * Shape::kQueryPanelBytes + within),
        ptx::wgmma_advance(b, panel * Shape::kStagePanelBytes + within), step > 0);
  }
}

// out = weights values (+ out where `add` is not 0).
template <typename Shape>
__device__ __forceinline__ void issue_combination(float (&out)[Shape::kHeadDim / 2],
                                                  const uint32_t (&weights)[Shape::kBlock / 16][4],
                                                  uint32_t values, int add) {
  const uint64_t b = ptx::wgmma_operand(values, Shape::kStagePanelBytes);
#pragma unroll
  for (int step = 0; step < Shape::kBlock / 16; ++step)
    ptx::wgmma<typename Shape::Element, Shape::kHeadDim>(
        out, weights[step], ptx::wgmma_advance(b, step * 16 * kPanelRowBytes), step > 0 ? 1 : add);
}

// Writes a warp's 16 rows of results, scaled, to the panels at `to` as the copy engine reads them.
template <typename Shape>
__device__ __forceinline__ void stage_results(const float (&out)[Shape::kHeadDim / 2],
                                              const float (&factors)[2], uint32_t to, int warp,
                                              int lane) {
  using T = typename Shape::Element;
  constexpr int kRowBytes = 2 * Shape::kOutElements, kChunks = kRowBytes / 16;
  const int row = 16 * warp + lane % 16;
  // The swizzle of 128-byte rows is by row, that of 64-byte rows by pair of rows.
  const int swizzle = kChunks == 8 ? row & 7 : (row >> 1) & 3;
#pragma unroll
  for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
    const float* part = out + 8 * step;
    const uint32_t words[4] = {pack(part[0] * factors[0], part[1] * factors[0], T()),
                               pack(part[2] * factors[1], part[3] * factors[1], T()),
                               pack(part[4] * factors[0], part[5] * factors[0], T()),
                               pack(part[6] * factors[1], part[7] * factors[1], T())};
    const int chunk = 2 * step + lane / 16;
    ptx::stmatrix(to + chunk / kChunks * Shape::kOutPanelBytes + row * kRowBytes +
                      ((chunk % kChunks) ^ swizzle) * 16,
                  words);
  }
}

template <typename Shape>
__device__ __forceinline__ void consume(const HopperArguments& arguments,
                                        HopperControl<Shape>& control, uint32_t base,
                                        int warpgroup) {
  using T = typename Shape::Element;
  constexpr int kSteps = Shape::kBlock / 16;
  constexpr int kScores = Shape::kBlock / 2;  // of a lane
  // Scores that become weights before the products with the values of the tile before have to be
  // complete. Those take as long as a tile has features.
  constexpr int kEarly = Shape::kHeadDim > 128 ? kScores : kScores / 4;
  const HopperPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const int row = 16 * warp + lane / 4;  // and the one 8 rows on
  const bool exists[2] = {row < plan.row_count(), row + 8 < plan.row_count()};
  const uint32_t places[2] = {row_places(plan, warpgroup, row),
                              row_places(plan, warpgroup, row + 8)};
  // exp2(factor * score); where that would not do the scores are scaled first.
  const bool scale_first = problem.scale <= 0;
  const float scale = static_cast<float>(problem.scale * 1.4426950408889634);
  const float factor = scale_first ? 1.f : scale;

  RingPlace<Shape::kStages> key_place, value_place;
  RingPlace<Shape::kQueryBuffers> query_place;
  RingPlace<kItemsKnown> item_place;
  float scores[kScores];
  float out[Shape::kHeadDim / 2];
  uint32_t weights[kSteps][4];

  auto wait_for_key = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_key[key_place.stage]), key_place.parity);
  };
  auto wait_for_value = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_value[value_place.stage]),
                       value_place.parity);
  };
  // Every warp says when it is done with a stage: a wait ends for a warp, not for its warpgroup.
  auto release_key = [&] {
    if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&control.empty_key[key_place.stage]));
    key_place.next();
  };
  auto release_value = [&] {
    if (lane == 0)
      ptx::mbarrier_arrive(ptx::shared_address(&control.empty_value[value_place.stage]));
    value_place.next();
  };
  auto key_stage = [&] { return base + Shape::kKeyAt + key_place.stage * Shape::kStageBytes; };
  auto value_stage = [&] {
    return base + Shape::kValueAt + value_place.stage * Shape::kStageBytes;
  };
  auto queries = [&](int buffer) {
    return base + Shape::kQueryAt + (buffer * Shape::kWarpgroups + warpgroup) * Shape::kQueryBytes;
  };
  auto take_turn = [&] {
    if constexpr (Shape::kWarpgroups > 1) ptx::barrier_sync(kTurnBarrier + warpgroup, 256);
  };
  auto pass_turn = [&] {
    if constexpr (Shape::kWarpgroups > 1)
      ptx::barrier_arrive(kTurnBarrier + (warpgroup + 1) % Shape::kWarpgroups, 256);
  };

  int left = 0;  // tiles of the item behind the present one
  // Waits for an item and its queries; false where there is none.
  auto begin_item = [&] {
    const int slot = item_place.stage, buffer = query_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    if (control.items[slot].last) return false;
    left = control.items[slot].total - 1;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[buffer][warpgroup]),
                       query_place.parity);
    return true;
  };

  bool sure = false;
  uint32_t seen[2];
  auto look = [&] {
    const TileMask& mask = control.masks[key_place.stage][warpgroup];
    sure = mask.sure;
    seen[0] = mask.word[row][lane % 4];
    seen[1] = mask.word[row + 8][lane % 4];
  };
  auto hide = [&] {
    if (scale_first) {
#pragma unroll
      for (float& score : scores) score *= scale;
    }
    if (!sure) hide_columns(scores, seen);
  };
  auto pack_weights = [&] {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        weights[step][i] = pack(scores[8 * step + 2 * i], scores[8 * step + 2 * i + 1], T());
    }
  };

  // The factors that normalise the rows of the item in `slot`, and its log-sum-exps.
  auto finish_sums = [&](int slot, LazySoftmax& softmax, float (&inverse)[2]) {
    const HopperItem& item = control.items[slot];
    float lse[2];
    softmax.finish(inverse, lse);
    if (lane % 4 != 0) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      bool stored = exists[r];
      int64_t at = item.entry * arguments.lse_entry + item.head;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        const int place = place_along(places[r], a);
        stored = stored && place < item.axis[a].queries;
        at += arguments.lse_steps[a] * (item.axis[a].query + place * problem.axes[a].dilation);
      }
      if (stored) arguments.lse[at] = lse[r];
    }
  };

  int owed = -1;  // the place of queries that results are being copied from
  auto release_queries = [&] {
    if (owed >= 0 && thread == 0) {
      ptx::tma_store_wait_read();
      ptx::mbarrier_arrive(ptx::shared_address(&control.empty_query[owed][warpgroup]));
    }
    owed = -1;
  };
  // Writes the results of the item in `slot` to the place of its queries, and on to the tensor.
  auto store_results = [&](int slot, int buffer, const float (&inverse)[2]) {
    const HopperItem& item = control.items[slot];
    const uint32_t staged = queries(buffer);
    // All warps are done with the queries.
    ptx::barrier_sync(kOwnBarrier + warpgroup, 128);
    stage_results<Shape>(out, inverse, staged, warp, lane);
    ptx::fence_async_shared();
    ptx::barrier_sync(kOwnBarrier + warpgroup, 128);
    if (thread == 0) {
      int token[kMaxRank];
      bool any = true;  // a store that begins outside of the tensor would store nothing
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        const int offset = plan.offset(warpgroup, a);
        token[a] = item.axis[a].query + offset * problem.axes[a].dilation;
        any = any && offset < item.axis[a].queries;
      }
      if (any) {
#pragma unroll
        for (int panel = 0; panel < Shape::kOutPanels; ++panel) {
          const int column = panel * Shape::kOutElements;
          if (column >= problem.value_dim) break;
          const MapPlace place(plan, Shape::kHeadDim, item.head, column, token[2], token[1],
                               token[0], item.entry);
          ptx::tma_store(&arguments.out, staged + panel * Shape::kOutPanelBytes, place.at[0],
                         place.at[1], place.at[2], place.at[3], place.at[4]);
        }
      }
      ptx::tma_store_commit();
    }
    owed = buffer;
    if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&control.done[slot]));
  };

  if (warpgroup == Shape::kWarpgroups - 1) pass_turn();
  // One round for all items where queries have two places, one for each where they have one.
  while (begin_item()) {
    LazySoftmax softmax;
    float shrink[2], inverse[2];
    wait_for_key();
    ptx::wgmma_fence();
    issue_scores<Shape>(scores, queries(query_place.stage), key_stage());
    ptx::wgmma_commit();
    look();
    ptx::wgmma_wait<0>();
    ptx::keep_here(scores);
    release_key();
    hide();
    softmax.settle(scores, factor, exists, shrink);
    softmax.template weigh<0, kScores>(scores, factor);
    pack_weights();

    bool begun = false;  // whether `out` holds something
    int slot, buffer;    // of the item whose weights there are
    for (;;) {
      slot = item_place.stage;
      buffer = query_place.stage;
      const bool ends = left == 0;
      if (ends) {
        release_queries();
        item_place.next();
        query_place.next();
        if (Shape::kQueryBuffers == 1 || !begin_item()) break;
      } else {
        --left;
      }
      // The scores of the next tile, and out += weights values of the present one.
      wait_for_key();
      take_turn();
      ptx::wgmma_fence();
      issue_scores<Shape>(scores, queries(query_place.stage), key_stage());
      ptx::wgmma_commit();
      wait_for_value();
      ptx::wgmma_fence();
      issue_combination<Shape>(out, weights, value_stage(), begun);
      ptx::wgmma_commit();
      pass_turn();
      look();
      release_queries();
      ptx::wgmma_wait<1>();
      ptx::keep_here(scores);
      release_key();
      hide();
      if (ends) {
        finish_sums(slot, softmax, inverse);
        softmax = LazySoftmax();
      }
      const bool shrinks = softmax.settle(scores, factor, exists, shrink);
      softmax.template weigh<0, kEarly>(scores, factor);
      ptx::keep_here<0, kEarly>(scores);
      ptx::keep_here(softmax.sum);
      // The values are long there; but a loop keeps the compiler from moving the next wait up.
      wait_for_value();
      ptx::wgmma_wait<0>();
      ptx::keep_here(out);
      ptx::keep_here(scores);
      release_value();
      if (ends) {
        store_results(slot, buffer, inverse);
      } else if (shrinks) {
#pragma unroll
        for (int n = 0; n < Shape::kHeadDim / 2; ++n) out[n] *= shrink[n / 2 % 2];
      }
      begun = !ends;
      softmax.template weigh<kEarly, kScores>(scores, factor);
      pack_weights();
    }
    wait_for_value();
    ptx::wgmma_fence();
    issue_combination<Shape>(out, weights, value_stage(), begun);
    ptx::wgmma_commit();
    finish_sums(slot, softmax, inverse);
    ptx::wgmma_wait<0>();
    ptx::keep_here(out);
    release_value();
    store_results(slot, buffer, inverse);
    release_queries();
    if (Shape::kQueryBuffers == 2) break;
  }
}

}  // namespace jax_na::cuda
