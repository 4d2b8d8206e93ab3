// The producer of the Hopper kernel: one thread that asks for copies.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/shared.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

// Where a tile lies: of the window or, as a line, of the additional keys.
struct TileBox {
  int head, x, y, z, entry;
  bool window;
};

template <typename Shape, typename Arguments>
__device__ inline void produce(const Arguments& arguments, HopperControl<Shape>& control,
                               uint32_t base) {
  const HopperPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  RingPlace<Shape::kStages> key_place;
  RingPlace<Shape::kValueStages> value_place;
  RingPlace<Shape::kQueryBuffers> query_place;
  RingPlace<kItemsKnown> item_place;

  // Asks for the panels of a box.
  auto load = [&](const CUtensorMap* map, uint32_t to, int panel_bytes, uint32_t barrier, int head,
                  int x, int y, int z, int entry) {
#pragma unroll
    for (int panel = 0; panel < Shape::kPanels; ++panel) {
      const MapPlace place(plan, Shape::kHeadDim, head, Shape::kLineElements * panel, x, y, z,
                           entry);
      ptx::tma_load(to + panel * panel_bytes, map, barrier, place.at[0], place.at[1], place.at[2],
                    place.at[3], place.at[4]);
    }
  };
  auto load_tile = [&](const CUtensorMap* map, uint32_t to, uint64_t& full, uint64_t& empty,
                       int parity, const TileBox& box) {
    const uint32_t barrier = ptx::shared_address(&full);
    ptx::mbarrier_wait(ptx::shared_address(&empty), parity ^ 1);
    ptx::mbarrier_arrive_expect(barrier, Shape::kPanels * plan.column_count() * Shape::kLineBytes);
    load(map, to, Shape::kStagePanelBytes, barrier, box.head, box.x, box.y, box.z, box.entry);
  };
  auto load_keys = [&](const TileBox& box) {
    const int stage = key_place.stage;
    load_tile(box.window ? &arguments.key : &arguments.additional_keys,
              base + Shape::kKeyAt + stage * Shape::kStageBytes, control.full_key[stage],
              control.empty_key[stage], key_place.parity, box);
    key_place.next();
  };
  auto load_values = [&](const TileBox& box) {
    const int stage = value_place.stage;
    load_tile(box.window ? &arguments.value : &arguments.additional_values,
              base + Shape::kValueAt + stage * Shape::kStageBytes, control.full_value[stage],
              control.empty_value[stage], value_place.parity, box);
    value_place.next();
  };
  auto load_queries = [&](const HopperItem& item) {
    for (int w = 0; w < Shape::kWarpgroups; ++w) {
      const int buffer = query_place.stage;
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_query[buffer][w]),
                         query_place.parity ^ 1);
      const uint32_t full = ptx::shared_address(&control.full_query[buffer][w]);
      ptx::mbarrier_arrive_expect(
          full, Shape::kQueryTensors * Shape::kPanels * plan.row_count() * Shape::kLineBytes);
      auto load_part = [&](const CUtensorMap* map, int at) {
        load(map, base + at + (buffer * Shape::kWarpgroups + w) * Shape::kQueryBytes,
             Shape::kRowPanelBytes, full, item.head,
             item.axis[2].row + plan.offset(w, 2) * problem.axes[2].dilation,
             item.axis[1].row + plan.offset(w, 1) * problem.axes[1].dilation,
             item.axis[0].row + plan.offset(w, 0) * problem.axes[0].dilation, item.entry);
      };
      load_part(&arguments.query, Shape::kQueryAt);
      if constexpr (Shape::kQueryTensors == 2) load_part(&arguments.dout, Shape::kDoutAt);
    }
    query_place.next();
  };

  // Values that are needed after the keys of the next tile, which may be of the next item.
  TileBox before;
  bool owes_values = false;
  for (;; item_place.next()) {
    ptx::mbarrier_wait(ptx::shared_address(&control.described[item_place.stage]),
                       item_place.parity);
    const HopperItem& item = control.items[item_place.stage];
    if (item.last) break;
    const int windows = item.windows, total = item.total;
    TileBox box{item.head / problem.group(), 0, 0, 0, item.entry, true};
    int tile_x = first_tile<Shape>(item, 2), tile_y = first_tile<Shape>(item, 1),
        tile_z = first_tile<Shape>(item, 0);
    for (int tile = 0; tile < total; ++tile) {
      box.window = tile < windows;
      if (box.window) {
        box.x = item.axis[2].coordinate(tile_x, plan.columns[2], problem.axes[2].dilation);
        box.y = item.axis[1].coordinate(tile_y, plan.columns[1], problem.axes[1].dilation);
        box.z = item.axis[0].coordinate(tile_z, plan.columns[0], problem.axes[0].dilation);
        if (++tile_x == item.axis[2].tiles) {
          tile_x = 0;
          if (++tile_y == item.axis[1].tiles) {
            tile_y = 0;
            if (++tile_z == item.axis[0].tiles) tile_z = 0;
          }
        }
      } else {
        box.x = (tile - windows) * plan.column_count();
        box.y = box.z = 0;
      }
      load_keys(box);
      if (tile == 0) load_queries(item);
      if constexpr (Shape::kValuesLate) {
        if (owes_values) load_values(before);
        before = box;
        owes_values = true;
      } else {
        load_values(box);
      }
    }
    // The next queries may have to wait for results that need these values.
    if (Shape::kValuesLate && Shape::kQueryBuffers == 1) {
      load_values(before);
      owes_values = false;
    }
    ptx::mbarrier_arrive(ptx::shared_address(&control.done[item_place.stage]));
  }
  if (owes_values) load_values(before);
}

}  // namespace jax_na::cuda
