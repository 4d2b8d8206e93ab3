// One attention problem as the kernels see it: the axes, the sizes of the tensors, and nothing of
// who asks.
#pragma once

#include <cstdint>

#include "core/geometry.h"

namespace jax_na {

// query [batch, z, y, x, heads, head_dim], key [.., kv_heads, head_dim], value [.., kv_heads,
// value_dim], additional keys and values [batch, additional, kv_heads, ..], bias [bias_batch,
// heads, 2w-1 per axis].
struct Problem {
  int64_t batch = 0;
  int heads = 1;
  int kv_heads = 1;
  int head_dim = 0;
  int value_dim = 0;
  int additional = 0;
  int bias_batch = 0;  // 0: no bias; 1: one for all; batch: one each
  double scale = 1.0;
  Axis axes[kMaxRank];

  JAX_NA_INLINE int group() const { return heads / kv_heads; }
  JAX_NA_INLINE int64_t query_tokens() const {
    return static_cast<int64_t>(axes[0].query_count) * axes[1].query_count * axes[2].query_count;
  }
  JAX_NA_INLINE int64_t key_tokens() const {
    return static_cast<int64_t>(axes[0].key_count) * axes[1].key_count * axes[2].key_count;
  }
  // Of all heads and batch entries.
  JAX_NA_INLINE int64_t query_rows() const { return batch * query_tokens() * heads; }
  JAX_NA_INLINE int64_t key_rows() const { return batch * key_tokens() * kv_heads; }
  // Entries of the bias of one head.
  JAX_NA_INLINE int64_t bias_size() const {
    int64_t size = 1;
    for (const Axis& axis : axes) size *= 2 * axis.window - 1;
    return size;
  }
};

}  // namespace jax_na
