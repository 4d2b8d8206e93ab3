// The two kinds of matrix product, on rows in shared memory, for one chunk of 16 streamed tokens.
//
//   scores:  [16 stationary rows, features] x [16 streamed rows, features]^T
//   combine: [16 stationary rows, 16 weights] x [16 streamed rows, features]
//
// A lane addresses one half of every 32 bytes of one streamed row: which, so that the two words of
// a right operand arrive side by side.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mma.h"
#include "cuda/ptx/shared_words.h"
#include "cuda/tile/element.h"
#include "cuda/tile/rows.h"

namespace jax_na::cuda {

struct StreamedLane {
  int row, half;
};
__device__ __forceinline__ StreamedLane scores_lane(int lane) {
  return {lane / 16 * 8 + lane % 8, lane / 8 % 2};
}
__device__ __forceinline__ StreamedLane combine_lane(int lane) {
  return {lane % 16, lane / 16};
}

// How float32 products are made: of TF32 numbers, or of each number's TF32 part and what it leaves
// (three products: the fourth is below float32's own rounding).
enum class Products { kPlain, kSplit };

// Chunks of 16 streamed tokens that a backward kernel meets together: two hide each other's latency
// where registers allow.
template <typename T, int kHeadDim>
constexpr int kChunksAtOnce = sizeof(T) == 2 && kHeadDim > 64 && kHeadDim <= 128 ? 2 : 1;

// d = a b + c; `d` and `c` may be the same.
template <typename T, Products kProducts>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1, const float (&c)[4]) {
  if constexpr (!std::is_same_v<T, float>) {
    ptx::mma(d, a, b0, b1, c, T());
  } else {
    uint32_t high[4];
    for (int i = 0; i < 4; ++i) high[i] = ptx::to_tf32(__uint_as_float(a[i]));
    uint32_t high0 = ptx::to_tf32(__uint_as_float(b0)), high1 = ptx::to_tf32(__uint_as_float(b1));
    if constexpr (kProducts == Products::kSplit) {
      auto rest = [](uint32_t whole, uint32_t part) {
        return ptx::to_tf32(__uint_as_float(whole) - __uint_as_float(part));
      };
      uint32_t low[4];
      for (int i = 0; i < 4; ++i) low[i] = rest(a[i], high[i]);
      ptx::mma(d, low, high0, high1, c, float());
      ptx::mma(d, high, rest(b0, high0), rest(b1, high1), d, float());
      ptx::mma(d, high, high0, high1, d, float());
    } else {
      ptx::mma(d, high, high0, high1, c, float());
    }
  }
}

// Stationary rows as left operands: in registers where they fit, else read again for every product.
template <typename T, int kHeadDim, int kRowTiles, bool kInRegisters>
struct Stationary {
  using R = Rows<T, kHeadDim>;
  uint32_t address[kRowTiles];
  uint32_t held[kInRegisters ? kRowTiles : 1][kInRegisters ? R::kSteps : 1][4];

  // `base` is the address of the warp's first row.
  __device__ __forceinline__ void load(uint32_t base, int lane) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      address[m] = base + R::chunk_offset(16 * m + lane % 16, lane / 16);
      if constexpr (kInRegisters) {
#pragma unroll
        for (int k = 0; k < R::kSteps; ++k) ptx::ldmatrix(held[m][k], R::at_step(address[m], k));
      }
    }
  }
  __device__ __forceinline__ void get(uint32_t (&a)[4], int m, int k) const {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = held[m][k][i];
    } else {
      ptx::ldmatrix(a, R::at_step(address[m], k));
    }
  }
};

// scores[m][n][..] = rows of fragment m times streamed rows 8n .. 8n + 7. `offsets` are, from
// `base` on, those of scores_lane(lane) in each chunk.
template <typename T, int kHeadDim, Products kProducts, int kRowTiles, bool kInRegisters,
          int kChunks>
__device__ __forceinline__ void find_scores(
    float (&scores)[kRowTiles][2 * kChunks][4],
    const Stationary<T, kHeadDim, kRowTiles, kInRegisters>& stationary, uint32_t base,
    const uint32_t (&offsets)[kChunks]) {
  using R = Rows<T, kHeadDim>;
  constexpr float kZero[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
  for (int k = 0; k < R::kSteps; ++k) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) stationary.get(a[m], m, k);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      uint32_t b[4];
      ptx::ldmatrix(b, R::at_step(base + offsets[c], k));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float (&sum)[4] = scores[m][2 * c + n];
          if (k == 0)
            multiply<T, kProducts>(sum, a[m], b[2 * n], b[2 * n + 1], kZero);
          else
            multiply<T, kProducts>(sum, a[m], b[2 * n], b[2 * n + 1], sum);
        }
      }
    }
  }
}

// Weights of 16 rows for 16 streamed tokens, as left operands: one fragment of 16-bit elements, or
// two of floats. Columns of float fragments are permuted (token 2t first, 2t + 1 in the second half
// of the fragment), which a sum over tokens does not see.
template <typename T>
struct Weights {
  static constexpr int kFragments = std::is_same_v<T, float> ? 2 : 1;
  uint32_t a[kFragments][4];

  // From the accumulators of streamed tokens 0 .. 7 and 8 .. 15.
  __device__ __forceinline__ void set(const float (&w0)[4], const float (&w1)[4]) {
    if constexpr (std::is_same_v<T, float>) {
      set_fragment(a[0], w0);
      set_fragment(a[1], w1);
    } else {
      a[0][0] = pack(w0[0], w0[1], T());
      a[0][1] = pack(w0[2], w0[3], T());
      a[0][2] = pack(w1[0], w1[1], T());
      a[0][3] = pack(w1[2], w1[3], T());
    }
  }

 private:
  __device__ __forceinline__ static void set_fragment(uint32_t (&to)[4], const float (&w)[4]) {
    to[0] = __float_as_uint(w[0]);
    to[1] = __float_as_uint(w[2]);
    to[2] = __float_as_uint(w[1]);
    to[3] = __float_as_uint(w[3]);
  }
};

// sums[m][j][..] += weights of fragment m times features 8j .. 8j + 7 of the streamed rows at
// `base`, for kTiles values of j from feature `first` on. `offset` is chunk_offset(row, half) of
// this lane.
template <typename T, int kHeadDim, Products kProducts, int kRowTiles, int kTiles>
__device__ __forceinline__ void add_combination(float (&sums)[kRowTiles][kTiles][4],
                                                const Weights<T> (&weights)[kRowTiles],
                                                uint32_t base, uint32_t offset, int lane,
                                                int first = 0) {
  using R = Rows<T, kHeadDim>;
  if constexpr (!std::is_same_v<T, float>) {
    const uint32_t streamed = base + offset;
#pragma unroll
    for (int j = 0; j < kTiles; j += 2) {
      uint32_t b[4];
      ptx::ldmatrix_transposed(b, R::at_step(streamed, first / 16 + j / 2));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        multiply<T, kProducts>(sums[m][j], weights[m].a[0], b[0], b[1], sums[m][j]);
        multiply<T, kProducts>(sums[m][j + 1], weights[m].a[0], b[2], b[3], sums[m][j + 1]);
      }
    }
  } else {
    const int g = lane / 4, t = lane % 4, row = offset / R::kBytes;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      uint32_t even = base + R::chunk_offset(__shfl_sync(~0u, row, 8 * n + 2 * t), g / 4);
      uint32_t odd = base + R::chunk_offset(__shfl_sync(~0u, row, 8 * n + 2 * t + 1), g / 4);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        uint32_t b0 = ptx::load_shared(R::at_step(even, first / 8 + j) + 4 * (g % 4));
        uint32_t b1 = ptx::load_shared(R::at_step(odd, first / 8 + j) + 4 * (g % 4));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
          multiply<T, kProducts>(sums[m][j], weights[m].a[n], b0, b1, sums[m][j]);
      }
    }
  }
}

}  // namespace jax_na::cuda
