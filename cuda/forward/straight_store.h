// Results of a fragment's 16 rows from registers to global memory, of 16-bit elements, and through
// no shared memory (as in tile/store.h): the next item's queries may be on their way there. It
// takes more registers, which a kernel that streams has to spare at the end of an item.
#pragma once

#include <cstdint>

#include "cuda/ptx/global_words.h"
#include "cuda/tile/element.h"
#include "cuda/tile/work.h"

namespace jax_na::cuda {

// Two lanes `apart` exchange what one keeps the first of and the other the second.
__device__ __forceinline__ void exchange(uint32_t& first, uint32_t& second, bool keeps_first,
                                         int apart) {
  const uint32_t got = __shfl_xor_sync(~0u, keeps_first ? second : first, apart);
  first = keeps_first ? first : got;
  second = keeps_first ? got : second;
}

// Of four words in each lane of a quad, word i of lane t becomes word t of lane i.
__device__ __forceinline__ void transpose_quad(uint32_t (&words)[4], int t) {
  exchange(words[0], words[2], t < 2, 2);
  exchange(words[1], words[3], t < 2, 2);
  exchange(words[0], words[1], t % 2 == 0, 1);
  exchange(words[2], words[3], t % 2 == 0, 1);
}

// Scales the rows (g by factors[0], g + 8 by factors[1]) and writes `features` of each to
// to[token * stride ..], 16 bytes at a time.
template <typename T, int kHeadDim>
__device__ __forceinline__ void store_straight(const float (&values)[kHeadDim / 8][4],
                                               const float (&factors)[2], const RowWork* rows,
                                               T* to, int stride, int features, int lane) {
  static_assert(sizeof(T) == 2 && kHeadDim % 32 == 0);
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = rows[g + 8 * r].token;
    T* row = to + uint64_t{static_cast<uint32_t>(token)} * static_cast<uint32_t>(stride) + 8 * t;
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; j += 4) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] =
            pack(values[j + i][2 * r] * factors[r], values[j + i][2 * r + 1] * factors[r], T());
      transpose_quad(words, t);
      if (token >= 0 && 8 * (j + t) < features)
        ptx::store_global_16(row + 8 * j, make_uint4(words[0], words[1], words[2], words[3]));
    }
  }
}

}  // namespace jax_na::cuda
