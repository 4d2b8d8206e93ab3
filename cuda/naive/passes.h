// The launches that make up the naive implementation, one file each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "cuda/launch.h"

namespace jax_na::cuda::naive {

// `count` parts of `run` tokens each; the last ones may be shorter, or empty. The count grows with
// the number of tokens, so that a workspace for an axis also serves a slab of it.
struct Parts {
  int run;
  int count;

  JAX_NA_INLINE Interval tokens(int part, int64_t all) const {
    const int64_t begin = static_cast<int64_t>(part) * run;
    return {static_cast<int>(begin < all ? begin : all),
            static_cast<int>(begin + run < all ? begin + run : all)};
  }

  // As many as fill any GPU, unless their sums take too much memory: `groups` run one part of all,
  // and `bytes` hold its sums.
  static Parts of(int64_t tokens, int64_t groups, int64_t bytes) {
    constexpr int64_t kGroups = 32768, kBytes = int64_t{64} << 20, kShortest = 8;
    const int64_t most = std::min({kGroups / std::max<int64_t>(groups, 1),
                                   kBytes / std::max<int64_t>(bytes, 1), tokens / kShortest});
    const int64_t parts = std::max<int64_t>(most, 1);
    const int64_t run = std::max<int64_t>((tokens + parts - 1) / parts, 1);
    return {static_cast<int>(run), static_cast<int>(parts)};
  }
};

inline int64_t real_bytes(Stored stored) {
  return stored == Stored::kFloat64 ? 8 : 4;
}

// Stores dquery, and delta = sum(dout * out) - dlse [batch, tokens, heads]. A group takes a run of
// queries, and adds the gradients of their scores up in a table of its own where there is a bias:
// `tables` [parts, batch, heads, entries of the bias] begin as 0.
std::string query_gradient(const Backward& arguments, const Parts& parts, void* delta, void* tables,
                           cudaStream_t stream);

// Stores dkey and dvalue, given delta.
std::string key_gradient(const Backward& arguments, const void* delta, cudaStream_t stream);

// Stores, for each part of the queries, the sums that dadditional_keys and dadditional_values are
// made of: dkeys [parts, batch, additional, kv_heads, head_dim], dvalues [.., value_dim].
std::string additional_gradient(const Backward& arguments, const Parts& parts, const void* delta,
                                void* dkeys, void* dvalues, cudaStream_t stream);

// to[i] = the sum over p of from[p, i], i < count. `from` is of float, or double where `to` is.
std::string sum_parts(const void* from, int parts, int64_t count, Stored stored, void* to,
                      cudaStream_t stream);

// Load the kernels of one file each.
std::string load_forward();
std::string load_query_gradient();
std::string load_key_gradient();
std::string load_sum_parts();

}  // namespace jax_na::cuda::naive
