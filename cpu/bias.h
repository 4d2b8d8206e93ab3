// Relative position bias, laid out so that the entries of a strip are neighbours.
#pragma once

#include "cpu/tile.h"

namespace jax_na::JAX_NA_ISA {

// One head's table [2wz-1][2wy-1][pitch] with margins along x: the lanes of a strip that a row does
// not see read and add to the margins instead of being told apart. Entry (z, y, x) belongs to the
// distance streamed - stationary plus window - 1 per axis.
struct BiasTable {
  int size[kMaxRank];
  int margin;
  int pitch;

  JAX_NA_INLINE static BiasTable of(const Problem& problem, int rows, int lanes) {
    BiasTable table;
    for (int a = 0; a < kMaxRank; ++a) table.size[a] = 2 * problem.axes[a].window - 1;
    table.margin = rows + lanes;
    table.pitch = table.size[2] + 2 * table.margin;
    return table;
  }
  JAX_NA_INLINE int64_t elements() const { return static_cast<int64_t>(size[0]) * size[1] * pitch; }
  // The entry for row 0 of a group and the first lane of a line, `dx` apart.
  JAX_NA_INLINE int64_t at(int dz, int dy, int dx) const {
    int64_t line = static_cast<int64_t>(dz + size[0] / 2) * size[1] + dy + size[1] / 2;
    return line * pitch + margin + dx + size[2] / 2;
  }
};

// Fills a table from bias [2wz-1, 2wy-1, 2wx-1]; `mirrored` where queries stream past keys and
// distances change sign.
template <typename T>
JAX_NA_INLINE void pack_bias(const BiasTable& table, const T* bias, T factor, bool mirrored,
                             T* to) {
  for (int z = 0; z < table.size[0]; ++z) {
    for (int y = 0; y < table.size[1]; ++y) {
      int64_t line = static_cast<int64_t>(z) * table.size[1] + y;
      int64_t lines = static_cast<int64_t>(table.size[0]) * table.size[1];
      const T* from = bias + (mirrored ? lines - 1 - line : line) * table.size[2];
      T* row = to + line * table.pitch;
      for (int x = 0; x < table.pitch; ++x) row[x] = 0;
      for (int x = 0; x < table.size[2]; ++x)
        row[table.margin + x] = factor * from[mirrored ? table.size[2] - 1 - x : x];
    }
  }
}

// Adds the inner part of a table to bias [2wz-1, 2wy-1, 2wx-1].
template <typename T>
JAX_NA_INLINE void unpack_bias(const BiasTable& table, const T* from, T* bias) {
  for (int64_t line = 0; line < static_cast<int64_t>(table.size[0]) * table.size[1]; ++line)
    for (int x = 0; x < table.size[2]; ++x)
      bias[line * table.size[2] + x] += from[line * table.pitch + table.margin + x];
}

}  // namespace jax_na::JAX_NA_ISA
