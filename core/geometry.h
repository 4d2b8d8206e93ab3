// The windows of neighborhood attention: which keys a query sees, and which queries see a key.
//
// This header is the only place of the compiled code that knows the rules; docs/semantics.md is
// their text and tests/test_geometry.py ties the two together. It includes neither CUDA nor XLA,
// compiles for host and device, and treats every axis alike, so that ranks 1 and 2 are rank 3 with
// leading axes of length one.
//
// Coordinates. A token i of an axis with dilation d belongs to group g = i mod d, at position j =
// floor(i / d). All rules are stated on the positions of one group, of length L. On a periodic axis
// positions are not reduced modulo L
// ("unwrapped"): a window may begin below 0 or end above L, and position j stands for the token at
// j mod L.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define JAX_NA_INLINE __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
// Always inlined, so that no copy of a function compiled for one instruction set is ever linked
// into code for another.
#define JAX_NA_INLINE inline __attribute__((always_inline))
#else
#define JAX_NA_INLINE inline
#endif

namespace jax_na {

constexpr int kMaxRank = 3;

enum class Boundary : int32_t { kShift = 0, kClip = 1, kWrap = 2 };

JAX_NA_INLINE constexpr int min_of(int a, int b) {
  return a < b ? a : b;
}
JAX_NA_INLINE constexpr int max_of(int a, int b) {
  return a > b ? a : b;
}
JAX_NA_INLINE constexpr int floor_div(int a, int b) {
  int quotient = a / b;
  return quotient - ((a % b != 0) && ((a < 0) != (b < 0)) ? 1 : 0);
}
JAX_NA_INLINE constexpr int ceil_div(int a, int b) {
  return -floor_div(-a, b);
}
JAX_NA_INLINE constexpr int floor_mod(int a, int b) {
  return a - floor_div(a, b) * b;
}

// Positions [begin, end); empty when end <= begin.
struct Interval {
  int begin;
  int end;

  JAX_NA_INLINE constexpr int size() const { return end > begin ? end - begin : 0; }
  JAX_NA_INLINE constexpr Interval clipped(Interval to) const {
    return {max_of(begin, to.begin), min_of(end, to.end)};
  }
};

// The rule of one axis, on the positions of one dilation group.
struct Rule {
  int length;  // positions in the group
  int window;
  int stride;
  bool causal;
  Boundary boundary;

  JAX_NA_INLINE constexpr int left() const { return window / 2; }
  JAX_NA_INLINE constexpr int right() const { return window - 1 - window / 2; }
  JAX_NA_INLINE constexpr bool wraps() const { return boundary == Boundary::kWrap; }

  // The query that places the window of j's stride group.
  JAX_NA_INLINE constexpr int lead(int j) const {
    int period = wraps() ? floor_div(j, length) * length : 0;
    int within = j - period;
    int offset = causal ? stride - 1 : stride / 2;
    return period + min_of(within / stride * stride + offset, length - 1);
  }

  // The keys that query j sees. Both ends are non-decreasing in j.
  JAX_NA_INLINE constexpr Interval window_of(int j) const {
    int at = lead(j);
    if (causal) return {max_of(at - window + 1, 0), min_of(j + 1, length)};
    int begin = at - left();
    switch (boundary) {
      case Boundary::kClip:
        return {max_of(begin, 0), min_of(at + right() + 1, length)};
      case Boundary::kWrap:
        return {begin, begin + window};
      default:
        begin = max_of(0, min_of(begin, length - window));
        return {begin, begin + window};
    }
  }

  // The position of slot 0 of query j's window: where the window would begin if no border cut it.
  // Slot t holds the key at slot_origin(j) + t.
  JAX_NA_INLINE constexpr int slot_origin(int j) const {
    if (causal) return lead(j) - window + 1;
    return boundary == Boundary::kClip ? lead(j) - left() : window_of(j).begin;
  }

  // The queries that see key k. Both ends are non-decreasing in k.
  JAX_NA_INLINE constexpr Interval queries_of(int k) const {
    if (causal) {
      int groups = (k + window) / stride + (k + window >= length ? 1 : 0);
      return {k, min_of(groups * stride, length)};
    }
    switch (boundary) {
      case Boundary::kClip:
        return {first_led_from(k - right()), last_led_to(k + left())};
      case Boundary::kWrap: {
        int low = floor_div(k - right(), length) * length;
        int high = floor_div(k + left(), length) * length;
        return {low + first_led_from(k - right() - low), high + last_led_to(k + left() - high)};
      }
      default: {
        int slack = stride - stride / 2 - 1;
        int first = k >= window ? (k - right() + slack) / stride * stride : 0;
        int last = k >= length - window ? length : (k + left() + slack + 1) / stride * stride;
        return {first, min_of(last, length)};
      }
    }
  }

  // The keys that some, or every, query of [queries.begin, queries.end) sees.
  JAX_NA_INLINE constexpr Interval window_union(Interval queries) const {
    return {window_of(queries.begin).begin, window_of(queries.end - 1).end};
  }
  JAX_NA_INLINE constexpr Interval window_intersection(Interval queries) const {
    return {window_of(queries.end - 1).begin, window_of(queries.begin).end};
  }
  // The queries that see some, or every, key of [keys.begin, keys.end).
  JAX_NA_INLINE constexpr Interval queries_union(Interval keys) const {
    return {queries_of(keys.begin).begin, queries_of(keys.end - 1).end};
  }
  JAX_NA_INLINE constexpr Interval queries_intersection(Interval keys) const {
    return {queries_of(keys.end - 1).begin, queries_of(keys.begin).end};
  }

 private:
  // Inside one period and without causality: the first position whose lead is at least `target`,
  // and one past the last position whose lead is at most `target`. A lead is the middle of its
  // stride group, or length - 1 in the last one.
  JAX_NA_INLINE constexpr int first_led_from(int target) const {
    int group = max_of(ceil_div(target - stride / 2, stride), 0);
    return min_of(group * stride, length);
  }
  JAX_NA_INLINE constexpr int last_led_to(int target) const {
    if (target >= length - 1) return length;
    int groups = floor_div(target - stride / 2, stride) + 1;
    return min_of(max_of(groups, 0) * stride, length);
  }
};

// The positions of one dilation group that a tensor holds: its tokens are [origin, origin + count)
// of the global axis.
struct Held {
  int begin;   // first held position
  int count;   // held positions
  int offset;  // index in the tensor of the token at `begin`
  int step;    // distance in the tensor between neighbours: the dilation

  JAX_NA_INLINE static constexpr Held of(int origin, int count, int group, int dilation) {
    int begin = ceil_div(origin - group, dilation);
    int end = ceil_div(origin + count - group, dilation);
    return {begin, max_of(end - begin, 0), begin * dilation + group - origin, dilation};
  }
  JAX_NA_INLINE constexpr Interval positions() const { return {begin, begin + count}; }
  JAX_NA_INLINE constexpr int token(int position) const {
    return offset + (position - begin) * step;
  }
};

// One axis of a problem: the parameters, and the slabs of the global axis that the query and key
// tensors hold. Keys that a slab does not hold are invisible. A periodic axis held whole by both
// tensors addresses positions modulo its length; held in part, its key tensor carries the halo, in
// unwrapped coordinates (origin < 0 is legal).
struct Axis {
  int length = 1;
  int window = 1;
  int stride = 1;
  int dilation = 1;
  bool causal = false;
  Boundary boundary = Boundary::kShift;
  int query_origin = 0;
  int query_count = 1;
  int key_origin = 0;
  int key_count = 1;

  JAX_NA_INLINE constexpr int group_length(int group) const {
    return ceil_div(length - group, dilation);
  }
  JAX_NA_INLINE constexpr Rule rule(int group) const {
    return {group_length(group), window, stride, causal, boundary};
  }
  JAX_NA_INLINE constexpr Held queries(int group) const {
    return Held::of(query_origin, query_count, group, dilation);
  }
  JAX_NA_INLINE constexpr Held keys(int group) const {
    return Held::of(key_origin, key_count, group, dilation);
  }
  JAX_NA_INLINE constexpr bool modular() const {
    return boundary == Boundary::kWrap && query_count == length && key_count == length;
  }
};

}  // namespace jax_na
