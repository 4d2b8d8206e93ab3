// The copies of a stage's rows to shared memory, which a kernel starts a few at a time among other
// work.
#pragma once

#include <cstdint>

#include "cuda/forward/stage_list.h"
#include "cuda/plan.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/opaque.h"
#include "cuda/ptx/shared_words.h"
#include "cuda/tile/load.h"
#include "cuda/tile/rows.h"

namespace jax_na::cuda {

// A thread's part of them: kLanes threads copy a row together, each every kApart-th row.
template <typename T, int kHeadDim>
class StageCopies {
  using R = Rows<T, kHeadDim>;
  static constexpr int kLanes = R::kChunks <= 8 ? 8 : 16;

 public:
  static constexpr int kApart = 32 * kStreamedWarps / kLanes;
  static constexpr int kFours = kStreamedBlock / kApart / 4;  // copies of a thread
  static_assert(kApart % 8 == 0, "rows of a thread are swizzled alike");
  static_assert(kFours * kApart * 4 == kStreamedBlock, "a thread reads its shares by four");

  // To `to`, of the rows of a stage. Where there are not `any` nothing is read.
  __device__ __forceinline__ StageCopies(const Source& from, uint32_t to, const StageList& list,
                                         const KeyStage& stage, bool any)
      : stride_(from.stride) {
    const int thread = static_cast<int>(ptx::anew(threadIdx.x));
    const int chunk = thread % kLanes, row = thread / kLanes;
    column_ = ptx::opaque(from.base + 16 * chunk + static_cast<int64_t>(stage.token) * stride_);
    // Bits of every 8th row are 2 apart.
    const uint32_t there = stage.there[row % 8 / 2] >> (row / 8 * 2 + row % 2);
    const uint32_t wanted = chunk * R::kPerChunk < from.features && any ? there : 0;
    to_ = to + R::chunk_offset(row, chunk);
    const uint32_t shares = ptx::shared_address(&list.shares[stage.shares]) + 16 * row * kFours;
    wanted_at_ = wanted << 16 | shares / 16;
  }

  // Starts four copies. Where there is no token nothing is read.
  __device__ __forceinline__ void start(int number) const {
    const uint4 four = ptx::load_shared_16(wanted_at_ % (1 << 16) * 16 + 16 * number);
    const int shares[4] = {static_cast<int>(four.x), static_cast<int>(four.y),
                           static_cast<int>(four.z), static_cast<int>(four.w)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int nth = 4 * number + i;
      const uint32_t wanted = wanted_at_ & 1u << (16 + nth * (kApart / 8) * 2);
      const uint32_t to = to_ + nth * kApart * R::kBytes;
      const char* from = column_ + static_cast<int64_t>(shares[i]) * stride_;
      if constexpr (R::kChunks == kLanes)
        ptx::cp_async_where(wanted, to, from);
      else  // some threads have no chunk
        ptx::cp_async_where(wanted, to, from, threadIdx.x % kLanes < R::kChunks);
    }
  }
  __device__ __forceinline__ void start_all() const {
#pragma unroll
    for (int i = 0; i < kFours; ++i) start(i);
  }

 private:
  const char* column_;
  int stride_;
  uint32_t to_;
  // Registers are short: which rows are to be read, in the upper half, and where shares of tokens
  // are, in units of 16 bytes.
  uint32_t wanted_at_;
};

}  // namespace jax_na::cuda
