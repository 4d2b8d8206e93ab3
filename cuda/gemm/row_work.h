// What a warp of the kernels between the matrix products knows of a query's window.
#pragma once

#include <cstdint>

#include "cuda/gemm/gemm.h"
#include "cuda/gemm/slots.h"
#include "cuda/place_axis.h"
#include "cuda/tile/fast_div.h"

namespace jax_na::cuda {

// A problem's rows of slots, as the host describes them to a kernel.
struct WindowRows {
  Problem problem;
  const int32_t* origins;
  FastDiv height, width;                // of the queries' tensor
  FastDiv window_height, window_width;  // of the box of slots
  int window = 1;                       // slots of the box
  int slots = 1;                        // and those of the additional tokens
  bool all_visible = false;             // every slot of every row

  WindowRows() = default;
  WindowRows(const Problem& of, const int32_t* given_origins)
      : problem(of),
        origins(given_origins),
        height(of.axes[1].query_count),
        width(of.axes[2].query_count),
        window_height(of.axes[1].window),
        window_width(of.axes[2].window),
        window(static_cast<int>(window_slots(of))),
        slots(static_cast<int>(slots_of(of))),
        all_visible(true) {
    for (const Axis& axis : of.axes)
      all_visible = all_visible && !axis.causal && axis.boundary != Boundary::kClip &&
                    axis.query_count == axis.length && axis.key_count == axis.length;
  }
};

// One axis of one query: its visible slots, and the bias index of slot 0.
struct AxisRow {
  Interval visible;
  int bias;
};

__device__ inline AxisRow axis_row(const WindowRows& rows, int a, int token) {
  const int x = rows.width.split(token), y = rows.height.split(token);
  const Axis axis = place_axis(rows.problem, rows.origins, a);
  const int at = axis.query_origin + (a == 2 ? x : a == 1 ? y : token);
  const int group = at % axis.dilation, position = at / axis.dilation;
  const Rule rule = axis.rule(group);
  Interval seen = rule.window_of(position);
  if (!axis.modular()) seen = seen.clipped(axis.keys(group).positions());
  const int origin = rule.slot_origin(position);
  return {{seen.begin - origin, seen.end - origin}, origin - position + axis.window - 1};
}

// The visible slots of a row.
class VisibleSlots {
 public:
  // For all lanes of a warp, which have one token in common.
  __device__ __forceinline__ VisibleSlots(const WindowRows& rows, int token, int lane)
      : rows_(rows) {
    if (rows.all_visible) return;
    AxisRow own{};
    if (lane < kMaxRank) own = axis_row(rows, lane, token);
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a)
      box_[a] = {__shfl_sync(~0u, own.visible.begin, a), __shfl_sync(~0u, own.visible.end, a)};
  }

  // Of a slot number that the row has.
  __device__ __forceinline__ bool holds(int slot) const {
    if (rows_.all_visible || slot >= rows_.window) return true;
    int z = slot;
    const int x = rows_.window_width.split(z), y = rows_.window_height.split(z);
    return box_[0].begin <= z && z < box_[0].end && box_[1].begin <= y && y < box_[1].end &&
           box_[2].begin <= x && x < box_[2].end;
  }

 private:
  const WindowRows& rows_;
  Interval box_[kMaxRank];
};

}  // namespace jax_na::cuda
