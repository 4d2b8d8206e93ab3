// A consumer of the kernel for the gradient of the queries: one warpgroup, which has up to 64
// queries of every item.
//
// A tile's products are issued in an order that leaves the tensor cores something to do while
// scores turn into weights, and weights into gradients of scores: docs/kernels.md has the schedule.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/hopper/consumer.h"
#include "cuda/hopper/query_gradient/arguments.h"
#include "cuda/hopper/query_gradient/shared.h"
#include "cuda/ptx/math.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume(const HopperQueryGradientArguments& arguments,
                                        HopperConsumer<Shape> c) {
  using Consumer = HopperConsumer<Shape>;
  using T = typename Shape::Element;
  constexpr int kScores = Consumer::kScores;
  const Problem& problem = arguments.problem;
  typename Consumer::Scores scores, cotangents;
  typename Consumer::Out out;
  typename Consumer::Weights weights, dscores;
  float lse[2], delta[2];  // of the lane's rows, the former in units of log2

  // Keys and values of a tile have the same place of their rings: c.key_place, of the tile whose
  // scores come next, and its like of tiles before.
  auto stage_before = [&](int tiles) {
    const int stage = c.key_place.stage - tiles;
    return stage < 0 ? stage + Shape::kStages : stage;
  };
  auto release = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  auto release_once = [&](uint64_t& barrier) {
    if (c.lane == 0) release(barrier);
  };

  // Rows that there are not have no weights.
  auto fetch_statistics = [&](const HopperItem& item) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int token[kMaxRank];
      const bool found = c.find_row(item, r, token);
      int64_t at = (static_cast<int64_t>(item.entry) * problem.heads + item.head) *
                   arguments.statistics_head;
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) at += token[a] * arguments.statistics_steps[a];
      const float2 of_row = found ? arguments.statistics[at] : make_float2(INFINITY, 0.f);
      lse[r] = of_row.x;
      delta[r] = of_row.y;
    }
  };
  auto wait_for_value = [&] {
    ptx::mbarrier_wait(ptx::shared_address(&c.control.full_value[c.key_place.stage]),
                       c.key_place.parity);
  };
  auto issue_cotangents = [&](int buffer) {
    const uint32_t douts = c.queries(buffer) + Shape::kDoutAt - Shape::kQueryAt;
    ptx::wgmma_fence();
    issue_scores<Shape>(cotangents, douts,
                        c.base + Shape::kValueAt + c.key_place.stage * Shape::kStageBytes);
    ptx::wgmma_commit();
  };
  // Of the tile whose scores there are, which is done with that.
  auto weigh = [&] {
    uint32_t seen[2];
    c.look(seen);
    c.hide(scores, seen);
    c.key_place.next();
#pragma unroll
    for (int n = 0; n < kScores / 2; ++n) {
      const float* pair = scores + 2 * n;
      const int r = n % 2;
      weights[n / 4][n % 4] = pack(ptx::exp2(fmaf(pair[0], c.factor, -lse[r])),
                                   ptx::exp2(fmaf(pair[1], c.factor, -lse[r])), T());
    }
  };
  auto find_dscores = [&] {
#pragma unroll
    for (int n = 0; n < kScores / 2; ++n) {
      const float* pair = cotangents + 2 * n;
      const int r = n % 2;
      const float2 weight = unpack(weights[n / 4][n % 4], T());
      dscores[n / 4][n % 4] =
          pack(weight.x * (pair[0] - delta[r]), weight.y * (pair[1] - delta[r]), T());
    }
  };
  // out += dscores keys.
  auto issue_sum = [&](bool begun) {
    ptx::wgmma_fence();
    issue_combination<Shape>(out, dscores,
                             c.base + Shape::kKeyAt + stage_before(1) * Shape::kStageBytes, begun);
    ptx::wgmma_commit();
  };
  // The cotangents of a tile's weights are there, and so are the sums with the tile before.
  auto release_tiles = [&](bool begun) {
    release_once(c.control.empty_value[stage_before(1)]);
    if (begun) release(c.control.empty_key[stage_before(2)]);
  };

  const float scale = static_cast<float>(problem.scale), scales[2] = {scale, scale};
  while (c.begin_item()) {
    const int slot = c.item_place.stage, buffer = c.query_place.stage;
    c.wait_for_key();
    c.issue_keys(scores);
    fetch_statistics(c.control.items[slot]);
    c.release_queries();
    wait_for_value();
    issue_cotangents(buffer);
    ptx::wgmma_wait<1>();
    ptx::keep_here(scores);
    weigh();

    bool begun = false;  // whether `out` holds something
    for (; c.left > 0; --c.left) {
      c.wait_for_key();
      // The one wait of a round for all products, without which the compiler would serialise them.
      ptx::wgmma_wait<0>();
      c.issue_keys(scores);
      release_tiles(begun);
      // Not needed yet, but a loop keeps the compiler from moving what follows ahead of products.
      wait_for_value();
      ptx::keep_here(cotangents);
      find_dscores();
      issue_sum(begun);
      ptx::wgmma_wait<1>();
      ptx::keep_here(scores);
      issue_cotangents(buffer);
      weigh();
      begun = true;
    }
    ptx::wgmma_wait<0>();
    ptx::keep_here(cotangents);
    release_tiles(begun);
    find_dscores();
    issue_sum(begun);
    ptx::wgmma_wait<0>();
    ptx::keep_here(out);
    release(c.control.empty_key[stage_before(1)]);
    c.item_place.next();
    c.query_place.next();
    c.store_results(out, slot, buffer, scales);
    // With one place for queries, those of the next item wait for this.
    if (Shape::kQueryBuffers == 1) c.release_queries();
  }
  c.release_queries();
}

}  // namespace jax_na::cuda
