// What the consumers of the Hopper kernel do: each is one warpgroup, which has up to 64 queries of
// every item. In which order they do it, and what runs side by side, is in overlapped.h and
// light.h.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/products.h"
#include "cuda/hopper/results.h"
#include "cuda/hopper/shared.h"
#include "cuda/hopper/softmax.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/mma.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

constexpr int kTurnBarrier = 1;  // and following, one for each warpgroup
constexpr int kOwnBarrier = kTurnBarrier + kMostWarpgroups;

// A consumer but for its numbers. Those are arrays, whose elements become registers when all loops
// are unrolled; what is in one struct with them would become registers no sooner, too late for
// the compiler to find out that all lanes of a warp agree on it.
template <typename Shape>
struct HopperConsumer {
  using T = typename Shape::Element;
  static constexpr int kScores = Shape::kBlock / 2;  // of a lane
  using Scores = float[kScores];
  using Out = float[Shape::kHeadDim / 2];
  using Weights = uint32_t[Shape::kBlock / 16][4];

  const HopperArguments& arguments;
  HopperControl<Shape>& control;
  const uint32_t base;
  const int warpgroup;
  const int thread, warp, lane;
  const int row;  // and the one 8 rows on
  // Operands of products: the warpgroup's queries, keys and values, in their first places.
  const WgmmaPlace<Shape::kLineBytes> first_queries, first_keys, first_values;
  // exp2(factor * score); where that would not do the scores are scaled first.
  const float scale;
  const bool scale_first;
  const float factor;

  RingPlace<Shape::kStages> key_place;
  RingPlace<Shape::kValueStages> value_place;
  RingPlace<Shape::kQueryBuffers> query_place;
  RingPlace<kItemsKnown> item_place;
  int left = 0;   // tiles of the item behind the present one
  int owed = -1;  // the place of queries that results are being copied from
  TileMask::Seen tile = TileMask::kNothing;  // what is seen of the tile that was looked at

  __device__ __forceinline__ HopperConsumer(const HopperArguments& arguments,
                                            HopperControl<Shape>& control, uint32_t base,
                                            int warpgroup)
      : arguments(arguments),
        control(control),
        base(base),
        warpgroup(warpgroup),
        thread(threadIdx.x % 128),
        warp(thread / 32),
        lane(thread % 32),
        row(16 * warp + lane / 4),
        first_queries(base + Shape::kQueryAt + warpgroup * Shape::kQueryBytes, 0),
        first_keys(base + Shape::kKeyAt, 0),
        first_values(base + Shape::kValueAt, Shape::kStagePanelBytes),
        scale(static_cast<float>(arguments.problem.scale * 1.4426950408889634)),
        scale_first(!(scale > 0)),
        factor(scale_first ? 1.f : scale) {}

  __device__ __forceinline__ void wait_for_key() const {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_key[key_place.stage]), key_place.parity);
  }
  __device__ __forceinline__ void wait_for_value() const {
    ptx::mbarrier_wait(ptx::shared_address(&control.full_value[value_place.stage]),
                       value_place.parity);
  }
  // Every warp says when it is done with a stage: a wait ends for a warp, not for its warpgroup.
  // Every lane does for a stage of keys, with which it has read masks.
  __device__ __forceinline__ void release_key() {
    ptx::mbarrier_arrive(ptx::shared_address(&control.empty_key[key_place.stage]));
    key_place.next();
  }
  __device__ __forceinline__ void release_value() {
    if (lane == 0)
      ptx::mbarrier_arrive(ptx::shared_address(&control.empty_value[value_place.stage]));
    value_place.next();
  }
  __device__ __forceinline__ uint32_t key_stage() const {
    return base + Shape::kKeyAt + key_place.stage * Shape::kStageBytes;
  }
  __device__ __forceinline__ uint32_t queries(int buffer) const {
    return base + Shape::kQueryAt + (buffer * Shape::kWarpgroups + warpgroup) * Shape::kQueryBytes;
  }

  // scores = queries keys^T, of the present tile of keys, and out = weights values (+ out).
  __device__ __forceinline__ void issue_keys(Scores& scores) {
    ptx::wgmma_fence();
    issue_scores<Shape>(
        scores, first_queries.operand(query_place.stage * Shape::kWarpgroups * Shape::kQueryBytes),
        first_keys.operand(key_place.stage * Shape::kStageBytes));
    ptx::wgmma_commit();
  }
  // The same scores by one warp alone, of a tile whose stage was not released yet.
  __device__ __forceinline__ void repeat_scores(Scores& scores) {
    const int lane = ptx::lane(), warp = ptx::thread() % 128 / 32;
    const int query = 16 * warp + lane % 16, key = lane / 16 * 8 + lane % 8;
    constexpr int kPanelSteps = Shape::kLineBytes / 32;
    // The swizzle of 128-byte rows is by row, that of 64-byte rows by pair of rows.
    auto swizzle = [](int row) { return Shape::kLineBytes == 128 ? row % 8 : row / 2 % 4; };
#pragma unroll
    for (float& score : scores) score = 0.f;
#pragma unroll 1
    for (int step = 0; step < Shape::kHeadDim / 16; ++step) {
      const int panel = step / kPanelSteps, chunk = 2 * (step % kPanelSteps);
      const uint32_t rows = queries(query_place.stage) + panel * Shape::kRowPanelBytes;
      const uint32_t columns = key_stage() + panel * Shape::kStagePanelBytes;
      uint32_t a[4];
      ptx::ldmatrix(a,
                    rows + query * Shape::kLineBytes + ((chunk + lane / 16) ^ swizzle(query)) * 16);
#pragma unroll
      for (int n = 0; n < Shape::kBlock / 8; n += 2) {
        uint32_t b[4];
        ptx::ldmatrix(b, columns + (8 * n + key) * Shape::kLineBytes +
                             ((chunk + lane / 8 % 2) ^ swizzle(key)) * 16);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          auto& d = *reinterpret_cast<float (*)[4]>(scores + 4 * (n + i));
          ptx::mma(d, a, b[2 * i], b[2 * i + 1], d, T());
        }
      }
    }
  }
  __device__ __forceinline__ void issue_values(Out& out, const Weights& weights, bool begun) {
    ptx::wgmma_fence();
    issue_combination<Shape>(out, weights,
                             first_values.operand(value_place.stage * Shape::kStageBytes), begun);
    ptx::wgmma_commit();
  }

  // Waits for an item and its queries; false where there is none.
  __device__ __forceinline__ bool begin_item() {
    const int slot = item_place.stage, buffer = query_place.stage;
    ptx::mbarrier_wait(ptx::shared_address(&control.described[slot]), item_place.parity);
    if (control.items[slot].last) return false;
    left = control.items[slot].total - 1;
    ptx::mbarrier_wait(ptx::shared_address(&control.full_query[buffer][warpgroup]),
                       query_place.parity);
    return true;
  }

  __device__ __forceinline__ TileMask::Seen tile_seen() const {
    return control.masks[key_place.stage][warpgroup].seen;
  }
  __device__ __forceinline__ void pass_over_tile() {
    release_key();
    wait_for_value();
    release_value();
  }

  __device__ __forceinline__ bool exists(int r) const {
    return row + 8 * r < arguments.plan.row_count();
  }
  __device__ __forceinline__ void look_at_columns(uint32_t (&seen)[2]) const {
    const auto* words =
        reinterpret_cast<const unsigned char*>(control.masks[key_place.stage][warpgroup].word);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t at = control.row_words[r][thread];
      seen[r] = *reinterpret_cast<const uint32_t*>(words + (at & 0xffff)) &
                *reinterpret_cast<const uint32_t*>(words + (at >> 16));
    }
  }
  __device__ __forceinline__ void look(uint32_t (&seen)[2]) {
    tile = tile_seen();
    look_at_columns(seen);
  }
  __device__ __forceinline__ void hide(Scores& scores, const uint32_t (&seen)[2]) const {
    if (scale_first) {
#pragma unroll
      for (float& score : scores) score *= scale;
    }
    if (tile != TileMask::kEverything) hide_columns(scores, seen);
  }
  __device__ __forceinline__ void pack_weights(const Scores& scores, Weights& weights) const {
#pragma unroll
    for (int step = 0; step < Shape::kBlock / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        weights[step][i] = pack(scores[8 * step + 2 * i], scores[8 * step + 2 * i + 1], T());
    }
  }

  // Finds row `row + 8 * r` of an item in the tensor; false where it is not there.
  __device__ __forceinline__ bool find_row(const HopperItem& item, int r,
                                           int (&token)[kMaxRank]) const {
    const uint32_t places = control.places[warpgroup][row + 8 * r];
    bool found = exists(r);
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int place = place_along(places, a);
      found = found && place < item.axis[a].rows;
      token[a] = item.axis[a].row + place * arguments.problem.axes[a].dilation;
    }
    return found;
  }
  // The factors that normalise the rows of the item in `slot`, and its log-sum-exps.
  __device__ __forceinline__ void finish_sums(int slot, OnlineSoftmax& softmax,
                                              float (&inverse)[2]) {
    const HopperItem& item = control.items[slot];
    float lse[2];
    softmax.finish(inverse, lse);
    if (lane % 4 != 0) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int token[kMaxRank];
      const bool stored = find_row(item, r, token);
      int64_t at = item.entry * arguments.lse_entry + item.head;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) at += arguments.lse_steps[a] * token[a];
      if (stored) arguments.lse[at] = lse[r];
    }
  }

  __device__ __forceinline__ void release_queries() {
    if (owed >= 0 && thread == 0) {
      ptx::tma_store_wait_read();
      ptx::mbarrier_arrive(ptx::shared_address(&control.empty_query[owed][warpgroup]));
    }
    owed = -1;
  }
  // Writes the results of the item in `slot` to the place of its queries, and on to the tensor.
  __device__ __forceinline__ void store_results(const Out& out, int slot, int buffer,
                                                const float (&inverse)[2]) {
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
        const int offset = arguments.plan.offset(warpgroup, a);
        token[a] = item.axis[a].row + offset * arguments.problem.axes[a].dilation;
        any = any && offset < item.axis[a].rows;
      }
      if (any) {
#pragma unroll
        for (int panel = 0; panel < Shape::kOutPanels; ++panel) {
          const int column = panel * Shape::kOutElements;
          if (column >= arguments.problem.value_dim) break;
          const MapPlace place(arguments.plan, Shape::kHeadDim, item.head, column, token[2],
                               token[1], token[0], item.entry);
          ptx::tma_store(&arguments.out, staged + panel * Shape::kOutPanelBytes, place.at[0],
                         place.at[1], place.at[2], place.at[3], place.at[4]);
        }
      }
      ptx::tma_store_commit();
    }
    owed = buffer;
    ptx::mbarrier_arrive(ptx::shared_address(&control.done[slot]));
  }
};

template <int kCount>
__device__ __forceinline__ void shrink_results(float (&out)[kCount], const float (&shrink)[2]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) out[n] *= shrink[n / 2 % 2];
}

}  // namespace jax_na::cuda
