// The gradient of the queries from its float32 sums, a line at a time: what a warp does in one go,
// eight features for each lane.
//
// While the main kernel runs, its maskers do lines of the heads whose items are all done; which
// masker has which lines is given, and how many each has done is left in memory. A short kernel
// does the others.
#pragma once

#include <cstdint>

#include "cuda/hopper/backward/arguments.h"
#include "cuda/hopper/backward/sum_order.h"
#include "cuda/ptx/lane.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {

// The place of a lane in a line: features from 8 * chunk on of a row of the sums, which are those of
// [batch, heads, tokens]. Rows have a power of two of lanes.
template <int kLanes>
struct LinePlace {
  static constexpr int kRows = 32 / kLanes;  // of a line
  int row, chunk;

  __device__ __forceinline__ LinePlace(int line, int lane)
      : row(line * kRows + lane / kLanes), chunk(lane % kLanes) {}
  __device__ __forceinline__ bool exists(const QuerySums& of) const {
    return row < of.rows && 8 * chunk < of.head_dim;
  }
};

// Rounds a lane's part of a line.
template <typename T, int kLanes>
__device__ __forceinline__ void round_line(const QuerySums& of, int line, int lane) {
  const LinePlace<kLanes> place(line, lane);
  if (!place.exists(of)) return;
  const float* from = of.sums + static_cast<int64_t>(place.row) * of.features;
  float2 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    pairs[i] = __ldcg(reinterpret_cast<const float2*>(from + sum_place(8 * place.chunk + 2 * i)));
  int token = place.row;
  int entry = 0, head = 0;
  {
    int rest = place.row;
    token = of.tokens.split(rest);
    head = of.heads.split(rest);
    entry = rest;
  }
  const int64_t row = (static_cast<int64_t>(entry) * of.tokens.divisor + token) * of.heads.divisor + head;
  uint4 words;
  words.x = pack(pairs[0].x * of.scale, pairs[0].y * of.scale, T());
  words.y = pack(pairs[1].x * of.scale, pairs[1].y * of.scale, T());
  words.z = pack(pairs[2].x * of.scale, pairs[2].y * of.scale, T());
  words.w = pack(pairs[3].x * of.scale, pairs[3].y * of.scale, T());
  static_cast<uint4*>(of.dquery)[row * (of.head_dim / 8) + place.chunk] = words;
}

// A masker's share of the lines.
template <typename Shape>
class LineRounder {
 public:
  // `heads_done` is in shared memory.
  __device__ __forceinline__ LineRounder(const QuerySums& of, int& heads_done, int masker)
      : of_(of), heads_done_(heads_done), masker_(blockIdx.x * Shape::kWarpgroups + masker) {}

  // The next line of this masker, by all lanes, if there is one whose head is done.
  __device__ __forceinline__ void next() {
    const int line = rounded_ * static_cast<int>(gridDim.x) * Shape::kWarpgroups + masker_;
    if (line >= of_.early_lines || !is_done(line)) return;
    round_line<typename Shape::Element, Shape::kRowLanes>(of_, line, ptx::lane());
    ++rounded_;
  }
  __device__ __forceinline__ void leave_count() {
    if (ptx::lane() == 0 && of_.early_lines > 0) of_.lines_rounded[masker_] = rounded_;
  }

 private:
  // Whether all items have been added up that the rows of the line, and those before, have sums of.
  __device__ __forceinline__ bool is_done(int line) {
    constexpr int kRows = LinePlace<Shape::kRowLanes>::kRows;
    int head = min(line * kRows + kRows, of_.rows) - 1;
    of_.tokens.split(head);
    of_.group.split(head);
    while (head >= heads_done_) {
      const int done = *static_cast<const volatile int*>(of_.items_done + heads_done_);
      if (__shfl_sync(~0u, done, 0) < of_.items) return false;
      __threadfence();
      __syncwarp();
      if (ptx::lane() == 0) ++heads_done_;
      __syncwarp();
    }
    return true;
  }

  const QuerySums& of_;
  int& heads_done_;  // of the heads of keys, in their order, all that are done
  int masker_;
  int rounded_ = 0;
};

}  // namespace jax_na::cuda
