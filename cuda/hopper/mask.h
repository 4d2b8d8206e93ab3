// Which keys of a tile a row sees, as bits.
//
// A lane with t = lane % 4 holds columns 8n + 2t and 8n + 2t + 1 of every 8 columns of a tile, as
// bits 2n and 2n + 1 of a word. A table for each axis says which of them lie before a coordinate,
// so that a row's columns are the difference of two entries, on every axis.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/hopper/item.h"
#include "cuda/hopper/shared.h"

namespace jax_na::cuda {

// Where an axis begins in the table.
__device__ __forceinline__ int below_begin(const HopperPlan& plan, int axis) {
  return axis == 0 ? 0 : plan.keys[0] + 1 + (axis == 1 ? 0 : plan.keys[1] + 1);
}

// Fills the table; threads [0, threads) share the work. Columns behind the tile's last key are
// below nothing.
template <typename Shape>
__device__ inline void fill_below(const HopperPlan& plan, HopperControl<Shape>& control, int thread,
                                  int threads) {
  for (int axis = 0; axis < kMaxRank; ++axis) {
    for (int entry = thread; entry < 4 * (plan.keys[axis] + 1); entry += threads) {
      const int t = entry % 4, below = entry / 4;
      uint32_t word = 0;
      for (int bit = 0; bit < Shape::kBlock / 4; ++bit) {
        const int column = 8 * (bit / 2) + 2 * t + bit % 2;
        const int line = column / plan.keys[2];
        const int at = axis == 2   ? column % plan.keys[2]
                       : axis == 1 ? line % plan.keys[1]
                                   : line / plan.keys[1];
        if (column < plan.key_count() && at < below) word |= 1u << bit;
      }
      control.below[below_begin(plan, axis) + below][t] = word;
    }
  }
}

// The first `count` columns.
__device__ __forceinline__ uint32_t first_columns(int count, int t) {
  const int bits = 2 * (count / 8) + min(max(count % 8 - 2 * t, 0), 2);
  return bits >= 32 ? ~0u : (1u << bits) - 1;
}

// Which entries of an item's `seen` are those of a lane's two rows, one per axis in ten bits each.
struct RowPlaces {
  uint32_t packed[2];
  bool exists[2];

  __device__ __forceinline__ RowPlaces(const HopperPlan& plan, int warpgroup, int row) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int at = row + 8 * r;
      exists[r] = at < plan.row_count();
      if (!exists[r]) at = 0;
      const int x = at % plan.rows[2], line = at / plan.rows[2];
      const int y = line % plan.rows[1], z = line / plan.rows[1];
      packed[r] = (z + plan.offset(warpgroup, 0)) | (y + plan.offset(warpgroup, 1)) << 10 |
                  (x + plan.offset(warpgroup, 2)) << 20;
    }
  }
  __device__ __forceinline__ int place(int r, int axis) const {
    return packed[r] >> (10 * axis) & 1023;
  }
};

// Where an axis begins in an item's `seen`.
__device__ __forceinline__ int seen_begin(const HopperPlan& plan, int axis) {
  return axis == 0 ? 0 : plan.box(0) + (axis == 1 ? 0 : plan.box(1));
}

// Goes through the tiles of an item, and finds what a lane's rows see of them.
template <typename Shape>
class TileMask {
 public:
  __device__ __forceinline__ TileMask(const HopperPlan& plan, HopperControl<Shape>& control,
                                      int warpgroup, int row, int t)
      : plan_(plan),
        control_(control),
        places_(plan, warpgroup, row),
        warpgroup_(warpgroup),
        t_(t),
        keys_(plan.key_count()) {}

  __device__ __forceinline__ void begin(int slot) {
    slot_ = slot;
    z_ = y_ = x_ = 0;
  }

  // Looks at tile `index`, the one after the last looked at.
  __device__ __forceinline__ void look(int index, int additional) {
    const HopperItem& item = control_.items[slot_];
    if (index >= item.windows) {
      const int count = additional - (index - item.windows) * keys_;
      sure_ = count >= keys_ && keys_ == Shape::kBlock;
      word_[0] = word_[1] = first_columns(min(count, keys_), t_);
      return;
    }
    if (x_ == 0) {
      line_sure_ = keys_ == Shape::kBlock;
      line_word_[0] = line_word_[1] = control_.below[plan_.keys[0]][t_];  // all columns of a key
      line_sure_ = look_along(item, 0, z_, line_word_) && line_sure_;
      line_sure_ = look_along(item, 1, y_, line_word_) && line_sure_;
    }
    word_[0] = line_word_[0];
    word_[1] = line_word_[1];
    sure_ = look_along(item, 2, x_, word_) && line_sure_;
    if (++x_ == item.axis[2].tiles) {
      x_ = 0;
      if (++y_ == item.axis[1].tiles) {
        y_ = 0;
        ++z_;
      }
    }
  }

  // Hides what the rows do not see of the tile looked at.
  __device__ __forceinline__ void hide(float (&scores)[Shape::kBlock / 2]) const {
    if (sure_) return;
#pragma unroll
    for (int n = 0; n < Shape::kBlock / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!(word_[i / 2] >> (2 * n + i % 2) & 1)) scores[4 * n + i] = -INFINITY;
    }
  }

  __device__ __forceinline__ const RowPlaces& places() const { return places_; }

 private:
  // Takes from `word` the columns that an axis hides; true where it hides none from any row.
  __device__ __forceinline__ bool look_along(const HopperItem& item, int a, int tile,
                                             uint32_t (&word)[2]) const {
    const AxisItem& axis = item.axis[a];
    const int keys = plan_.keys[a];
    if (tile_is_sure(axis, warpgroup_, tile, keys)) return true;
    const int origin = axis.origin(tile, keys), limit = axis.limit(tile);
    const Interval* seen = control_.seen[slot_] + seen_begin(plan_, a);
    const uint32_t (*below)[4] = control_.below + below_begin(plan_, a);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Interval mine = seen[places_.place(r, a)];
      const int low = min(max(mine.begin - origin, 0), keys);
      const int high = min(max(min(mine.end, limit) - origin, 0), keys);
      word[r] &= below[high][t_] & ~below[low][t_];
    }
    return false;
  }

  const HopperPlan& plan_;
  HopperControl<Shape>& control_;
  RowPlaces places_;
  int warpgroup_, t_, keys_;
  int slot_ = 0;
  int z_ = 0, y_ = 0, x_ = 0;
  bool sure_ = false, line_sure_ = false;
  uint32_t word_[2], line_word_[2];
};

}  // namespace jax_na::cuda
