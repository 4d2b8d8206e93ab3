// Consumers of which a multiprocessor has those of one CTA.
//
// The scores of a tile are computed while the values of the tile before are added up, across the
// end of an item too, and the softmax of a tile runs under the products of the other warpgroup:
// named barriers make the warpgroups take turns at issuing products.
#pragma once

#include "cuda/hopper/consumer.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_overlapped(HopperConsumer<Shape> c) {
  // Scores that become weights before the products with the values of the tile before have to be
  // complete. Those take as long as a tile has features.
  using Consumer = HopperConsumer<Shape>;
  constexpr int kScores = Consumer::kScores;
  constexpr int kEarly = Shape::kHeadDim > 128 ? kScores : kScores / 4;
  auto take_turn = [&] {
    if constexpr (Shape::kWarpgroups > 1) ptx::barrier_sync(kTurnBarrier + c.warpgroup, 256);
  };
  auto pass_turn = [&] {
    if constexpr (Shape::kWarpgroups > 1)
      ptx::barrier_arrive(kTurnBarrier + (c.warpgroup + 1) % Shape::kWarpgroups, 256);
  };

  typename Consumer::Scores scores;
  typename Consumer::Out out;
  typename Consumer::Weights weights;
  uint32_t seen[2];

  if (c.warpgroup == Shape::kWarpgroups - 1) pass_turn();
  // One round for all items where queries have two places, one for each where they have one.
  while (c.begin_item()) {
    OnlineSoftmax softmax;
    float shrink[2], inverse[2];
    c.wait_for_key();
    c.issue_keys(scores);
    c.look(seen);
    ptx::wgmma_wait<0>();
    ptx::keep_here(scores);
    c.release_key();
    c.hide(scores, seen);
    softmax.settle(scores, c.factor, shrink);
    softmax.template weigh<0, kScores>(scores, c.factor);
    softmax.add();
    c.pack_weights(scores, weights);

    bool begun = false;  // whether `out` holds something
    int slot, buffer;    // of the item whose weights there are
    for (;;) {
      slot = c.item_place.stage;
      buffer = c.query_place.stage;
      const bool ends = c.left == 0;
      if (ends) {
        c.release_queries();
        c.item_place.next();
        c.query_place.next();
        if (Shape::kQueryBuffers == 1 || !c.begin_item()) break;
      } else {
        --c.left;
      }
      // The scores of the next tile, and out += weights values of the present one.
      c.wait_for_key();
      take_turn();
      c.issue_keys(scores);
      c.wait_for_value();
      c.issue_values(out, weights, begun);
      pass_turn();
      c.look(seen);
      c.release_queries();
      ptx::wgmma_wait<1>();
      ptx::keep_here(scores);
      c.hide(scores, seen);
      if (ends) {
        c.finish_sums(slot, softmax, inverse);
        softmax = OnlineSoftmax();
      }
      const bool sure = !softmax.settled;
      if (sure) softmax.settle(scores, c.factor, shrink);
      softmax.template weigh<0, kEarly>(scores, c.factor);
      ptx::keep_here<0, kEarly>(scores);
      // The values are long there; but a loop keeps the compiler from moving the next wait up.
      c.wait_for_value();
      ptx::wgmma_wait<0>();
      ptx::keep_here(out);
      ptx::keep_here(scores);
      c.release_value();
      if (ends) {
        c.store_results(out, slot, buffer, inverse);
      } else if (sure) {
        shrink_results(out, shrink);
      }
      begun = !ends;
      softmax.template weigh<kEarly, kScores>(scores, c.factor);
      if (!softmax.trusts() && !sure) {
        // The warp makes its scores anew, of the keys, which are still there.
        c.repeat_scores(scores);
        c.look(seen);
        c.hide(scores, seen);
        softmax.settle(scores, c.factor, shrink);
        shrink_results(out, shrink);
        softmax.template weigh<0, kScores>(scores, c.factor);
      }
      softmax.add();
      c.release_key();
      c.pack_weights(scores, weights);
    }
    c.wait_for_value();
    c.issue_values(out, weights, begun);
    c.finish_sums(slot, softmax, inverse);
    ptx::wgmma_wait<0>();
    ptx::keep_here(out);
    c.release_value();
    c.store_results(out, slot, buffer, inverse);
    c.release_queries();
    if (Shape::kQueryBuffers == 2) break;
  }
}

}  // namespace jax_na::cuda
