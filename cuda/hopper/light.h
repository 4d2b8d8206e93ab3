// Consumers of which a multiprocessor has those of two CTAs, with fewer registers each.
//
// A warpgroup does one thing after the other, and nobody takes turns: its softmax runs under the
// products of three others. So scores and results need no registers of their own at the same time
// as the weights of the tile before, and small problems are cut into more pieces. Each warpgroup
// passes over the tiles that none of its rows sees.
#pragma once

#include "cuda/hopper/consumer.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_light(HopperConsumer<Shape> c) {
  static_assert(Shape::kQueryBuffers == 2, "an item's results leave while the next one begins");
  using Consumer = HopperConsumer<Shape>;
  typename Consumer::Scores scores;
  typename Consumer::Out out;
  typename Consumer::Weights weights;
  uint32_t seen[2];
  while (c.begin_item()) {
    OnlineSoftmax softmax;
    float shrink[2], inverse[2];
    c.wait_for_key();
    // The first tile that is needed; the last one is taken for it where none is.
    while (c.left > 0 && c.tile_seen() == TileMask::kNothing) {
      --c.left;
      c.pass_over_tile();
      c.wait_for_key();
    }
    c.issue_keys(scores);
    c.look(seen);
    c.release_queries();
    ptx::wgmma_wait<0>();
    ptx::keep_here(scores);
    c.release_key();
    c.hide(scores, seen);
    softmax.settle(scores, c.factor, shrink);
    softmax.template weigh<0, Consumer::kScores>(scores, c.factor);
    softmax.add();
    c.pack_weights(scores, weights);
    // The first tile is no round of the loop, which would have 14 % more instructions.
    bool begun = false;  // whether `out` holds something
    bool owes = true;    // whether there are weights that it has to hold yet
    while (c.left > 0) {
      --c.left;
      c.wait_for_value();
      c.issue_values(out, weights, begun);
      c.wait_for_key();
      c.tile = c.tile_seen();
      ptx::wgmma_wait<0>();
      ptx::keep_here(out);
      c.release_value();
      if (c.tile == TileMask::kNothing) {
        while (c.tile == TileMask::kNothing && c.left > 0) {
          --c.left;
          c.pass_over_tile();
          c.wait_for_key();
          c.tile = c.tile_seen();
        }
        if (c.tile == TileMask::kNothing) {
          c.pass_over_tile();
          owes = false;
          break;
        }
      }
      c.issue_keys(scores);
      c.look_at_columns(seen);
      begun = true;
      ptx::wgmma_wait<0>();
      ptx::keep_here(scores);
      c.hide(scores, seen);
      // A warp that cannot trust its weights makes the scores anew, while it has the keys.
      for (bool sure = !softmax.settled;; sure = true) {
        if (sure) {
          softmax.settle(scores, c.factor, shrink);
          shrink_results(out, shrink);
        }
        softmax.template weigh<0, Consumer::kScores>(scores, c.factor);
        c.pack_weights(scores, weights);
        if (softmax.trusts() || sure) break;
        c.repeat_scores(scores);
        c.look_at_columns(seen);
        c.hide(scores, seen);
      }
      softmax.add();
      c.release_key();
    }
    if (owes) {
      c.wait_for_value();
      c.issue_values(out, weights, begun);
    }
    c.finish_sums(c.item_place.stage, softmax, inverse);
    ptx::wgmma_wait<0>();
    ptx::keep_here(out);
    if (owes) c.release_value();
    c.store_results(out, c.item_place.stage, c.query_place.stage, inverse);
    c.item_place.next();
    c.query_place.next();
  }
  c.release_queries();
}

}  // namespace jax_na::cuda
