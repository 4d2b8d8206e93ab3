// Consumers of which a multiprocessor has those of two CTAs, with fewer registers each: for heads
// of few features, where the arithmetic of weights takes longer than the products.
//
// A warpgroup does one thing after the other, and what it waits for runs beside the arithmetic of
// three others. So scores and the cotangents of weights have the same registers, one after the
// other: with names of their own, ptxas runs out of registers and serialises the products. Each
// warpgroup passes over the tiles that none of its rows sees.
#pragma once

#include <cstdint>

#include "cuda/hopper/consumer.h"
#include "cuda/hopper/query_gradient/arguments.h"
#include "cuda/hopper/query_gradient/shared.h"
#include "cuda/hopper/query_gradient/steps.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_light(const HopperQueryGradientArguments& arguments,
                                              HopperConsumer<Shape> c) {
  static_assert(Shape::kQueryBuffers == 2, "an item's results leave while the next one begins");
  using Consumer = HopperConsumer<Shape>;
  using T = typename Shape::Element;
  typename Consumer::Scores scores;  // and then the cotangents of weights
  typename Consumer::Out out;
  typename Consumer::Weights weights, dscores;
  float lse[2], delta[2];
  uint32_t seen[2];

  auto release = [&](int stage) {
    ptx::mbarrier_arrive(ptx::shared_address(&c.control.empty_key[stage]));
  };
  // Goes on to a tile that is needed, or to the item's last one.
  auto find_tile = [&] {
    c.wait_for_key();
    c.tile = c.tile_seen();
    while (c.tile == TileMask::kNothing && c.left > 0) {
      --c.left;
      c.pass_over_tile();
      c.wait_for_key();
      c.tile = c.tile_seen();
    }
  };

  const float scale = static_cast<float>(arguments.problem.scale), scales[2] = {scale, scale};
  while (c.begin_item()) {
    fetch_statistics(arguments, c, c.control.items[c.item_place.stage], lse, delta);
    find_tile();
    c.issue_keys(scores);
    c.release_queries();
    int held = -1;  // the stage of the keys of the tile before, while they are summed
    for (bool begun = false;; begun = true) {
      c.look_at_columns(seen);
      ptx::wgmma_wait<0>();
      ptx::keep_here(scores);
      if (held >= 0) release(held);
      c.hide(scores, seen);
      find_weights<T>(scores, c.factor, lse, weights);
      c.wait_for_value();
      issue_cotangents(c, c.query_place.stage, c.value_place.stage, scores);
      ptx::wgmma_wait<0>();
      ptx::keep_here(scores);
      c.release_value();
      find_dscores<T>(scores, delta, weights, dscores);
      issue_sum(c, dscores, c.key_place.stage, begun, out);
      held = c.key_place.stage;
      c.key_place.next();
      if (c.left == 0) break;
      --c.left;
      c.wait_for_key();
      c.tile = c.tile_seen();
      if (c.tile == TileMask::kNothing) {
        // The keys of tiles that are passed over may have to take the place.
        ptx::wgmma_wait<0>();
        release(held);
        held = -1;
        find_tile();
        if (c.tile == TileMask::kNothing) {
          c.pass_over_tile();
          break;
        }
      }
      c.issue_keys(scores);
    }
    ptx::wgmma_wait<0>();
    ptx::keep_here(out);
    if (held >= 0) release(held);
    c.store_results(out, c.item_place.stage, c.query_place.stage, scales);
    c.item_place.next();
    c.query_place.next();
  }
  c.release_queries();
}

}  // namespace jax_na::cuda
