// The schedule of a consumer of 72 to 128 features, with the sums of a tile at once.
//
// docs/hopper-backward.md has the schedule.
#pragma once

#include "cuda/hopper/backward/consumer.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_promptly(HopperBackwardConsumer<Shape> c) {
  using Consumer = HopperBackwardConsumer<Shape>;
  static_assert(Shape::kDscoreBuffers == 1, "both warpgroups are done with it");
  typename Consumer::Gradients dkey, dvalue;
  typename Consumer::Scores scores, cotangents;
  typename Consumer::Sums sums;
  typename Consumer::Weights weights;

  // When those of a tile, or of the first of a pair, are found.
  auto leave_sums = [&] {
    c.leave_sums(sums);
    if (c.step.pair) {
      ptx::wgmma_fence();
      c.issue_sums(sums, 1, 0);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::keep_here(sums);
      c.leave_sums(sums);
    }
    c.arrive_once(c.control.empty_dscores[0]);
  };

  while (c.begin_item()) {
    c.issue_scores_of(c.step, scores);
    ptx::wgmma_commit();
    c.issue_cotangents_of(c.step, cotangents);
    ptx::wgmma_wait<1>();
    ptx::keep_here(scores);
    c.weigh(scores, weights);
    for (;;) {
      c.issue_dvalue(dvalue, weights);
      ptx::wgmma_wait<1>();
      ptx::keep_here(cotangents);
      if (c.begun) c.release_queries(c.before);
      c.leave_dscores(cotangents, weights);
      ptx::barrier_sync(kBothBarrier, 128 * Shape::kWarpgroups);
      // Not a group of its own: the wait is for what was issued before.
      ptx::wgmma_fence();
      c.issue_sums(sums, 0, 0);
      if (!c.step.pair) c.issue_sums(sums, 1, 1);
      ptx::wgmma_wait<0>();
      c.release_douts(c.step);
      c.tiles += c.step.tiles();
      if (c.tiles == c.end) break;
      const PairedStep next = c.walk.next(c.tiles);
      c.issue_scores_of(next, scores);
      ptx::wgmma_commit();
      c.issue_dkey(dkey);
      ptx::wgmma_wait<1>();
      ptx::keep_here(sums);
      ptx::keep_here(scores);
      leave_sums();
      c.issue_cotangents_of(next, cotangents);
      c.before = c.step;
      c.step = next;
      c.begun = true;
      ++c.steps;
      c.weigh(scores, weights);
    }
    ptx::wgmma_commit();
    c.issue_dkey(dkey);
    ptx::wgmma_wait<1>();
    ptx::keep_here(sums);
    leave_sums();
    ptx::wgmma_wait<0>();
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    c.release_queries(c.step);
    ++c.steps;
    c.end_item(dkey, dvalue);
  }
}

}  // namespace jax_na::cuda
