// What a query or a key meets: a box of the other side's tokens, and the walk over it.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cuda/naive/group.h"
#include "cuda/place_axis.h"

namespace jax_na::cuda::naive {

enum class Side { kQueries, kKeys };

// One axis of a box: neighbouring positions of the other side.
struct Reach {
  int count;     // 0 where there is nothing to meet
  int first;     // token of the first
  int step;      // from token to token
  int turn;      // of a periodic axis: how many there are before tokens begin anew
  int length;    // of the dilation group
  int own;       // position of the query, or key, whose box it is
  int distance;  // from there to the first; on a periodic axis neither is reduced

  __device__ __forceinline__ int token(int i) const {
    return first + (i - (i >= turn ? length : 0)) * step;
  }
};

// The reach of the token at index `token` of a side's tensor.
template <Side kOwn>
__device__ __forceinline__ Reach reach_of(Axis axis, int token) {
  const int global = token + (kOwn == Side::kQueries ? axis.query_origin : axis.key_origin);
  const int group = floor_mod(global, axis.dilation);
  const Rule rule = axis.rule(group);
  const Held held = kOwn == Side::kQueries ? axis.keys(group) : axis.queries(group);
  const int own = floor_div(global, axis.dilation);
  Interval met = kOwn == Side::kQueries ? rule.window_of(own) : rule.queries_of(own);
  int turn = INT32_MAX;
  if (!axis.modular()) met = met.clipped(held.positions());
  int begin = met.begin;
  if (axis.modular()) {
    begin = floor_mod(begin, rule.length);
    turn = rule.length - begin;
  }
  return {met.size(), held.token(begin), axis.dilation, turn, rule.length, own, met.begin - own};
}

// Of an axis of one token.
constexpr Reach kOne{1, 0, 1, INT32_MAX, 1, 0, 0};

struct Box {
  Reach axis[kMaxRank];
  int height, width;  // of the tensor met
};

// The box of token number `token` of its side; an empty one where not active.
template <Side kOwn>
__device__ __forceinline__ Box box_of(const Problem& problem, const int32_t* origins,
                                      const Groups& groups, int token, bool active) {
  int at[kMaxRank];
  at[2] = groups.width.split(token);
  at[1] = groups.height.split(token);
  at[0] = token;
  Box box;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    Axis axis = place_axis(problem, origins, a);
    if (axis.length == 1 && axis.key_count == 1) {
      box.axis[a] = kOne;
    } else if (axis.dilation == 1) {  // spares most of the divisions
      axis.dilation = 1;
      box.axis[a] = reach_of<kOwn>(axis, at[a]);
    } else {
      box.axis[a] = reach_of<kOwn>(axis, at[a]);
    }
    if (!active) box.axis[a].count = 0;
  }
  box.height = kOwn == Side::kQueries ? problem.axes[1].key_count : problem.axes[1].query_count;
  box.width = kOwn == Side::kQueries ? problem.axes[2].key_count : problem.axes[2].query_count;
  return box;
}

// Tokens [first, first + count), one after the other.
__device__ __forceinline__ Box line_box(int first, int count) {
  return {{kOne, kOne, {count, first, 1, INT32_MAX, 1, 0, 0}}, 1, 1};
}

// Where a walk begins on each axis, counted from the first one met, and how far it goes: the same
// in a whole warp.
struct Span {
  int begin[kMaxRank];
  int count[kMaxRank];
};

// All that one of the warp's groups meets.
__device__ __forceinline__ Span span_of(const Box& box) {
  Span span;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    span.begin[a] = 0;
    span.count[a] = warp_max(box.axis[a].count);
  }
  return span;
}

// Neighbours along x. A walk also comes by ones that are not met.
struct Batch {
  int z, y, x;  // of the first
  int line;     // token at the start of the tensor's line
  int shown;    // of the line, from its first one met on
  const Reach* across;

  __device__ __forceinline__ bool shows(int i) const {
    return static_cast<unsigned>(x + i) < static_cast<unsigned>(shown);
  }
  __device__ __forceinline__ int64_t token(int i) const { return line + across->token(x + i); }
};

// Calls visit(batch) for batches of kSize tokens.
template <int kSize, typename Visit>
__device__ __forceinline__ void walk(const Box& box, const Span& span, Visit visit) {
  const Reach* axes = box.axis;
  for (int i = 0; i < span.count[0]; ++i) {
    const int z = span.begin[0] + i;
    const bool z_met = static_cast<unsigned>(z) < static_cast<unsigned>(axes[0].count);
    for (int j = 0; j < span.count[1]; ++j) {
      const int y = span.begin[1] + j;
      const bool met = z_met && static_cast<unsigned>(y) < static_cast<unsigned>(axes[1].count);
      const int line = (axes[0].token(z) * box.height + axes[1].token(y)) * box.width;
      for (int k = 0; k < span.count[2]; k += kSize)
        visit(Batch{z, y, span.begin[2] + k, line, met ? axes[2].count : 0, &axes[2]});
    }
  }
}

// The entry of one head's bias for number i of a batch: key - query + window - 1 on every axis.
template <Side kOwn>
__device__ __forceinline__ int64_t bias_entry(const Problem& problem, const Box& box,
                                              const Batch& batch, int i) {
  const int at[kMaxRank] = {batch.z, batch.y, batch.x + i};
  int64_t entry = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    const int window = problem.axes[a].window;
    const int distance = box.axis[a].distance + at[a];
    entry = entry * (2 * window - 1) + (kOwn == Side::kQueries ? distance : -distance) + window - 1;
  }
  return entry;
}

}  // namespace jax_na::cuda::naive
