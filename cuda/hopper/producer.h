// The producer of the Hopper kernel: one warp that describes items and asks for copies.
#pragma once

#include <cstdint>

#include "cuda/hopper/arguments.h"
#include "cuda/hopper/mask.h"
#include "cuda/hopper/shared.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/tma.h"

namespace jax_na::cuda {

// Describes item `index` in `slot`, by all lanes; false where the dilation group is too short to
// have it.
template <typename Shape>
__device__ inline bool describe_item(const HopperArguments& arguments,
                                     HopperControl<Shape>& control, int slot, int index) {
  const HopperPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  const int lane = threadIdx.x % 32;
  HopperItem& item = control.items[slot];
  const int x = plan.boxes_x.split(index), y = plan.boxes_y.split(index);
  const int z = plan.boxes_z.split(index);
  const int group_x = plan.group_x.split(index), group_y = plan.group_y.split(index);
  const int group_z = plan.group_z.split(index);
  const int head = plan.heads.split(index);
  if (lane < kMaxRank) {
    const int place = lane == 2 ? x : lane == 1 ? y : z;
    const int group = lane == 2 ? group_x : lane == 1 ? group_y : group_z;
    Axis axis = problem.axes[lane];
    if (axis.query_count != axis.length || axis.key_count != axis.length) {
      axis.query_origin = arguments.origins[lane];
      axis.key_origin = arguments.origins[kMaxRank + lane];
    }
    item.axis[lane] = axis_item(axis, plan, lane, group, place * plan.box(lane));
  }
  __syncwarp();
  const bool exists =
      item.axis[0].queries > 0 && item.axis[1].queries > 0 && item.axis[2].queries > 0;
  if (exists) {
    for (int a = 0; a < kMaxRank; ++a) {
      for (int place = lane; place < plan.box(a); place += 32)
        control.seen[slot][seen_begin(plan, a) + place] = item.axis[a].seen(place);
    }
    if (lane == 0) {
      item.entry = index;
      item.head = head;
      item.windows = item.axis[0].tiles * item.axis[1].tiles * item.axis[2].tiles;
      item.total = item.windows + (problem.additional + plan.key_count() - 1) / plan.key_count();
      // Queries that see nothing see one tile, of which everything is hidden.
      if (item.total == 0) item.windows = item.total = 1;
      item.last = false;
    }
  }
  __syncwarp();
  return exists;
}

template <typename Shape>
__device__ inline void produce(const HopperArguments& arguments, HopperControl<Shape>& control,
                               uint32_t base) {
  const HopperPlan& plan = arguments.plan;
  const Problem& problem = arguments.problem;
  const int lane = threadIdx.x % 32;
  RingPlace<Shape::kKeyStages> key_place;
  RingPlace<Shape::kValueStages> value_place;

  // Asks for the panels of a box.
  auto load = [&](const CUtensorMap* map, uint32_t to, int panel_bytes, uint32_t barrier,
                  int column, int x, int y, int z, int entry) {
#pragma unroll
    for (int panel = 0; panel < Shape::kPanels; ++panel)
      ptx::tma_load(to + panel * panel_bytes, map, barrier, column + kPanelElements * panel, x, y,
                    z, entry);
  };
  const int tile_bytes = Shape::kPanels * plan.key_count() * kPanelRowBytes;

  auto load_queries = [&](const HopperItem& item, int turn) {
    for (int w = 0; w < Shape::kWarpgroups; ++w) {
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_query[w]), (turn & 1) ^ 1);
      const uint32_t full = ptx::shared_address(&control.full_query[w]);
      ptx::mbarrier_arrive_expect(full, Shape::kPanels * plan.row_count() * kPanelRowBytes);
      load(&arguments.query, base + Shape::kQueryAt + w * Shape::kQueryBytes,
           Shape::kQueryPanelBytes, full, item.head * Shape::kHeadDim,
           item.axis[2].query + plan.offset(w, 2) * problem.axes[2].dilation,
           item.axis[1].query + plan.offset(w, 1) * problem.axes[1].dilation,
           item.axis[0].query + plan.offset(w, 0) * problem.axes[0].dilation, item.entry);
    }
  };

  int turn = 0;
  for (int index = blockIdx.x; index < plan.items; index += gridDim.x) {
    const int slot = turn % kItemsKnown;
    if (!describe_item(arguments, control, slot, index)) continue;
    if (lane == 0) {
      ptx::mbarrier_arrive(ptx::shared_address(&control.described[slot]));
      const HopperItem& item = control.items[slot];
      const int column = item.head / problem.group() * Shape::kHeadDim;
      const int entry = item.entry, windows = item.windows, total = item.total;
      int tile_x = 0, tile_y = 0, tile_z = 0;
      int x = 0, y = 0, z = 0;  // of the latest tile
      auto load_value = [&](bool window) {
        const uint32_t full = ptx::shared_address(&control.full_value[value_place.stage]);
        ptx::mbarrier_wait(ptx::shared_address(&control.empty_value[value_place.stage]),
                           value_place.parity ^ 1);
        ptx::mbarrier_arrive_expect(full, tile_bytes);
        load(window ? &arguments.value : &arguments.additional_values,
             base + Shape::kValueAt + value_place.stage * Shape::kStageBytes,
             Shape::kStagePanelBytes, full, column, x, y, z, entry);
        value_place.next();
      };
      for (int tile = 0; tile < total; ++tile) {
        const bool window = tile < windows;
        const int last_x = x, last_y = y, last_z = z;
        if (window) {
          x = item.axis[2].coordinate(tile_x, plan.keys[2], problem.axes[2].dilation);
          y = item.axis[1].coordinate(tile_y, plan.keys[1], problem.axes[1].dilation);
          z = item.axis[0].coordinate(tile_z, plan.keys[0], problem.axes[0].dilation);
          if (++tile_x == item.axis[2].tiles) {
            tile_x = 0;
            if (++tile_y == item.axis[1].tiles) {
              tile_y = 0;
              ++tile_z;
            }
          }
        } else {
          x = (tile - windows) * plan.key_count();
          y = z = 0;
        }
        const uint32_t full = ptx::shared_address(&control.full_key[key_place.stage]);
        ptx::mbarrier_wait(ptx::shared_address(&control.empty_key[key_place.stage]),
                           key_place.parity ^ 1);
        ptx::mbarrier_arrive_expect(full, tile_bytes);
        load(window ? &arguments.key : &arguments.additional_keys,
             base + Shape::kKeyAt + key_place.stage * Shape::kStageBytes, Shape::kStagePanelBytes,
             full, column, x, y, z, entry);
        key_place.next();
        if (tile == 0) {
          load_queries(item, turn);
        } else {
          const int next_x = x, next_y = y, next_z = z;
          x = last_x, y = last_y, z = last_z;
          load_value(tile - 1 < windows);
          x = next_x, y = next_y, z = next_z;
        }
      }
      load_value(total - 1 < windows);
    }
    __syncwarp();
    ++turn;
  }
  if (lane == 0) {
    const int slot = turn % kItemsKnown;
    control.items[slot].last = true;
    ptx::mbarrier_arrive(ptx::shared_address(&control.described[slot]));
    for (int w = 0; w < Shape::kWarpgroups; ++w) {
      ptx::mbarrier_wait(ptx::shared_address(&control.empty_query[w]), (turn & 1) ^ 1);
      ptx::mbarrier_arrive(ptx::shared_address(&control.full_query[w]));
    }
  }
}

}  // namespace jax_na::cuda
