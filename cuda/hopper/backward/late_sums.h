// The schedule of a consumer of up to 64 features, with the sums of a tile a step late.
//
// There are registers for them while the next tile's gradients of scores are made. So warpgroups go
// apart by up to half a tile: each needs those of the other only when it has found the weights of
// the next one. docs/hopper-backward.md has the schedule.
#pragma once

#include "cuda/hopper/backward/consumer.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ __forceinline__ void consume_late(HopperBackwardConsumer<Shape> c) {
  using Consumer = HopperBackwardConsumer<Shape>;
  typename Consumer::Gradients dkey, dvalue;
  typename Consumer::Scores scores, cotangents;
  // Over the keys of each warpgroup: those of the tiles of a pair, or what is added up of one tile.
  typename Consumer::Sums sums[2];
  typename Consumer::Weights weights;

  auto issue_sums = [&] {
    // The other warpgroup's gradients of scores are there.
    c.wait(c.control.full_dscores[c.steps % 2], c.steps / 2 % 2);
    ptx::wgmma_fence();
    c.issue_sums(sums[0], 0, 0);
    c.issue_sums(sums[1], 1, 0);
    ptx::wgmma_commit();
  };
  auto keep_sums = [&] {
    ptx::keep_here(sums[0]);
    ptx::keep_here(sums[1]);
  };
  // Of a step, whose gradients of scores are in `buffer`.
  auto leave_sums = [&](const PairedStep& of, int buffer) {
    c.arrive_once(c.control.empty_dscores[buffer]);
    if (!of.pair) {
#pragma unroll
      for (int i = 0; i < Shape::kSumColumns / 2; ++i) sums[0][i] += sums[1][i];
    }
    c.leave_sums(sums[0]);
    if (of.pair) c.leave_sums(sums[1]);
  };

  while (c.begin_item()) {
    c.issue_scores_of(c.step, scores);
    ptx::wgmma_commit();
    c.issue_cotangents_of(c.step, cotangents);
    ptx::wgmma_wait<1>();
    ptx::keep_here(scores);
    c.weigh(scores, weights);
    // An empty group, so that the wait of the first round is for as many as that of others.
    ptx::wgmma_commit();
    for (;;) {
      c.issue_dvalue(dvalue, weights);
      ptx::wgmma_wait<2>();
      ptx::keep_here(cotangents);
      if (c.begun) c.release_queries(c.before);
      c.leave_dscores(cotangents, weights);
      ptx::barrier_sync(kOneBarrier + c.warpgroup, 128);
      if (ptx::thread() % 128 == 0) c.arrive(c.control.full_dscores[c.steps % 2]);
      c.tiles += c.step.tiles();
      if (c.tiles == c.end) break;
      const PairedStep next = c.walk.next(c.tiles);
      c.issue_scores_of(next, scores);
      ptx::wgmma_commit();
      const TileView<Shape::kBlock / 2> view(c.control, c.query_place(next.own(c.warpgroup)),
                                             c.warpgroup);
      ptx::wgmma_wait<0>();
      keep_sums();
      ptx::keep_here(scores);
      c.release_douts(c.step);
      c.issue_dkey(dkey);
      if (c.begun) leave_sums(c.before, (c.steps - 1) % 2);
      c.issue_cotangents_of(next, cotangents);
      view.template weigh<typename Shape::Element>(c.arguments, scores, weights);
      issue_sums();
      c.before = c.step;
      c.step = next;
      c.begun = true;
      ++c.steps;
    }
    c.issue_dkey(dkey);
    ptx::wgmma_wait<1>();
    keep_sums();
    c.release_douts(c.step);
    if (c.begun) leave_sums(c.before, (c.steps - 1) % 2);
    issue_sums();
    ptx::wgmma_wait<0>();
    keep_sums();
    ptx::keep_here(dkey);
    ptx::keep_here(dvalue);
    leave_sums(c.step, c.steps % 2);
    c.release_queries(c.step);
    ++c.steps;
    c.end_item(dkey, dvalue);
  }
}

}  // namespace jax_na::cuda
