// Consumers of which a multiprocessor has those of two CTAs, with fewer registers each.
//
// A warpgroup does one thing after the other, and nobody takes turns: its softmax runs under the
// products of three others. So scores and results need no registers of their own at the same time
// as the weights of the tile before, and small problems are cut into more pieces.
#pragma once

#include "cuda/hopper/consumer.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_light(HopperConsumer<Shape>& c) {
  static_assert(Shape::kQueryBuffers == 2, "an item's results leave while the next one begins");
  constexpr int kScores = HopperConsumer<Shape>::kScores;
  while (c.begin_item()) {
    LazySoftmax softmax;
    float shrink[2], inverse[2];
    const int slot = c.item_place.stage, buffer = c.query_place.stage;
    c.wait_for_key();
    for (bool begun = false;; begun = true) {
      c.issue_keys();
      c.look();
      c.release_queries();
      ptx::wgmma_wait<0>();
      ptx::keep_here(c.scores);
      c.release_key();
      c.hide();
      if (softmax.settle(c.scores, c.factor, c.exists, shrink) && begun) c.shrink_results(shrink);
      softmax.template weigh<0, kScores>(c.scores, c.factor);
      c.pack_weights();
      c.wait_for_value();
      c.issue_values(begun);
      if (c.left == 0) break;
      --c.left;
      c.wait_for_key();
      ptx::wgmma_wait<0>();
      ptx::keep_here(c.out);
      c.release_value();
    }
    c.finish_sums(slot, softmax, inverse);
    ptx::wgmma_wait<0>();
    ptx::keep_here(c.out);
    c.release_value();
    c.item_place.next();
    c.query_place.next();
    c.store_results(slot, buffer, inverse);
  }
  c.release_queries();
}

}  // namespace jax_na::cuda
