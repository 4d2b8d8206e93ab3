// The producer of the Hopper backward kernel: one thread that asks for copies.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/shared.h"
#include "cuda/hopper/backward/tile_walk.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

template <typename Shape>
__device__ inline void produce(const HopperBackwardArguments& arguments,
                               HopperBackwardControl<Shape>& control, uint32_t base) {
  const HopperBackwardPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  // Where not all stays in the cache, what is only read gives way to the sums, which would have to
  // be written and read again.
  const uint64_t once = plan.beyond_cache ? ptx::tma_evict_first() : ptx::tma_evict_normal();
  RingPlace<Shape::kRowBuffers> row_place;
  RingPlace<Shape::kQueryStages> query_place;
  RingPlace<Shape::kDoutStages> dout_place;
  RingPlace<kItemsKnown> item_place;
  using Walk = TileWalk<Shape::kPairs>;

  // Asks for the panels of a box.
  auto load_box = [&](const CUtensorMap* map, uint32_t to, int panel_bytes, uint32_t barrier,
                      int head, int x, int y, int z, int entry) {
#pragma unroll
    for (int panel = 0; panel < Shape::kPanels; ++panel) {
      const MapPlace place(plan, Shape::kHeadDim, head, panel * Shape::kLineElements, x, y, z,
                           entry);
      ptx::tma_load(to + panel * panel_bytes, map, barrier, once, place.at[0], place.at[1],
                    place.at[2], place.at[3], place.at[4]);
    }
  };

  auto load_rows = [&](const HopperItem& item, int additional) {
    const uint32_t rows = base + row_place.stage * 2 * Shape::kRowBytes;
    const uint32_t full = ptx::shared_address(&control.full_rows[row_place.stage]);
    ptx::mbarrier_wait(ptx::shared_address(&control.empty_rows[row_place.stage]),
                       row_place.parity ^ 1);
    ptx::mbarrier_arrive_expect(
        full, 2 * Shape::kRowGroups * Shape::kPanels * plan.row_count() * Shape::kLineBytes);
    auto load = [&](const CUtensorMap* map, uint32_t to, int w) {
      if (additional >= 0) {
        load_box(map, to + w * Shape::kPartBytes, Shape::kRowPanelBytes, full, item.head,
                 additional + w * plan.row_count(), 0, 0, item.entry);
        return;
      }
      const int x = item.axis[2].row + plan.offset(w, 2) * problem.axes[2].dilation;
      const int y = item.axis[1].row + plan.offset(w, 1) * problem.axes[1].dilation;
      const int z = item.axis[0].row + plan.offset(w, 0) * problem.axes[0].dilation;
      load_box(map, to + w * Shape::kPartBytes, Shape::kRowPanelBytes, full, item.head, x, y, z,
               item.entry);
    };
    const CUtensorMap* key = additional < 0 ? &arguments.key : &arguments.additional_keys;
    const CUtensorMap* value = additional < 0 ? &arguments.value : &arguments.additional_values;
    for (int w = 0; w < Shape::kRowGroups; ++w) load(key, rows + Shape::kKeyAt, w);
    for (int w = 0; w < Shape::kRowGroups; ++w) load(value, rows + Shape::kValueAt, w);
    row_place.next();
  };

  auto load_tile = [&](const CUtensorMap* map, uint32_t to, uint64_t& full, uint64_t& empty,
                       int parity, const HopperItem& item, const Walk& tile) {
    const uint32_t barrier = ptx::shared_address(&full);
    ptx::mbarrier_wait(ptx::shared_address(&empty), parity ^ 1);
    ptx::mbarrier_arrive_expect(barrier, Shape::kPanels * plan.column_count() * Shape::kLineBytes);
    const int x = tile.coordinate(item, plan, problem, 2);
    const int y = tile.coordinate(item, plan, problem, 1);
    const int z = tile.coordinate(item, plan, problem, 0);
    load_box(map, to, Shape::kStagePanelBytes, barrier, tile.head, x, y, z, item.entry);
  };

  for (;; item_place.next()) {
    ptx::mbarrier_wait(ptx::shared_address(&control.described[item_place.stage]),
                       item_place.parity);
    const HopperItem& item = control.items[item_place.stage];
    if (item.last) break;
    const int total = item.total;
    Walk tile(item, plan, problem);
    for (int i = 0; i < total; ++i) {
      // The place of keys and values is the last one to become free.
      if (i == min(Shape::kDoutStages, total) - 1)
        load_rows(item, control.additional[item_place.stage]);
      load_tile(&arguments.query, base + Shape::kQueryAt + query_place.stage * Shape::kStageBytes,
                control.full_query[query_place.stage], control.empty_query[query_place.stage],
                query_place.parity, item, tile);
      query_place.next();
      load_tile(&arguments.dout, base + Shape::kDoutAt + dout_place.stage * Shape::kStageBytes,
                control.full_dout[dout_place.stage], control.empty_dout[dout_place.stage],
                dout_place.parity, item, tile);
      dout_place.next();
      tile.next(item, plan, problem);
    }
    ptx::mbarrier_arrive(ptx::shared_address(&control.done[item_place.stage]));
  }
}

}  // namespace jax_na::cuda
