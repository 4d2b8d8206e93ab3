// A consumer of the kernel for the gradient of the queries: one warpgroup, which has up to 64
// queries of every item.
//
// A tile's products are issued in an order that leaves the tensor cores something to do while
// scores turn into weights, and weights into gradients of scores: docs/hopper-backward.md has the
// schedule.
#pragma once

#include <cstdint>

#include "cuda/hopper/consumer.h"
#include "cuda/hopper/query_gradient/arguments.h"
#include "cuda/hopper/query_gradient/shared.h"
#include "cuda/hopper/query_gradient/steps.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume(const HopperQueryGradientArguments& arguments,
                                        HopperConsumer<Shape> c) {
  using Consumer = HopperConsumer<Shape>;
  using T = typename Shape::Element;
  typename Consumer::Scores scores, cotangents;
  typename Consumer::Out out;
  typename Consumer::Weights weights, dscores;
  float lse[2], delta[2];

  // c.key_place is of the tile whose scores come next, from which keys of tiles before are found;
  // c.value_place of the one whose weights' cotangents come next, or are under way.
  auto stage_before = [&](int tiles) {
    const int stage = c.key_place.stage - tiles;
    return stage < 0 ? stage + Shape::kStages : stage;
  };
  auto release = [&](uint64_t& barrier) { ptx::mbarrier_arrive(ptx::shared_address(&barrier)); };
  // Of the tile whose scores there are, which is done with that.
  auto weigh = [&] {
    uint32_t seen[2];
    c.look(seen);
    c.hide(scores, seen);
    c.key_place.next();
    find_weights<T>(scores, c.factor, lse, weights);
  };
  // The cotangents of a tile's weights are there, and so are the sums with the tile before.
  auto release_tiles = [&](bool begun) {
    c.release_value();
    if (begun) release(c.control.empty_key[stage_before(2)]);
  };

  const float scale = static_cast<float>(arguments.problem.scale), scales[2] = {scale, scale};
  while (c.begin_item()) {
    const int slot = c.item_place.stage, buffer = c.query_place.stage;
    c.wait_for_key();
    c.issue_keys(scores);
    fetch_statistics(arguments, c, c.control.items[slot], lse, delta);
    c.release_queries();
    c.wait_for_value();
    issue_cotangents(c, buffer, c.value_place.stage, cotangents);
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
      c.wait_for_value();
      ptx::keep_here(cotangents);
      find_dscores<T>(cotangents, delta, weights, dscores);
      issue_sum(c, dscores, stage_before(1), begun, out);
      ptx::wgmma_wait<1>();
      ptx::keep_here(scores);
      issue_cotangents(c, buffer, c.value_place.stage, cotangents);
      weigh();
      begun = true;
    }
    ptx::wgmma_wait<0>();
    ptx::keep_here(cotangents);
    release_tiles(begun);
    find_dscores<T>(cotangents, delta, weights, dscores);
    issue_sum(c, dscores, stage_before(1), begun, out);
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
