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
  static_assert(kFours * kApart * 4 == kStreamedBlock, "a thread reads its tokens by four");

  // To `to`, of the rows whose tokens stand at `tokens`, both in shared memory. Where there are not
  // `any` nothing is read.
  __device__ __forceinline__ StageCopies(const Source& from, uint32_t to, const int* tokens,
                                         bool any)
      : stride_(from.stride) {
    const int thread = threadIdx.x, chunk = thread % kLanes, row = thread / kLanes;
    column_ = ptx::opaque(from.base + 16 * chunk);
    inside_ = chunk * R::kPerChunk < from.features && any;
    to_ = to + R::chunk_offset(row, chunk);
    tokens_ = ptx::shared_address(tokens) + 16 * row * kFours;
  }

  // Starts four copies. Where there is no token nothing is read.
  __device__ __forceinline__ void start(int number) const {
    if (R::kChunks < kLanes && threadIdx.x % kLanes >= R::kChunks) return;
    const uint4 four = ptx::load_shared_16(tokens_ + 16 * number);
    const int tokens[4] = {static_cast<int>(four.x), static_cast<int>(four.y),
                           static_cast<int>(four.z), static_cast<int>(four.w)};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      ptx::cp_async(to_ + (4 * number + i) * kApart * R::kBytes,
                    column_ + static_cast<int64_t>(tokens[i]) * stride_, tokens[i] >= 0 && inside_);
  }
  __device__ __forceinline__ void start_all() const {
#pragma unroll
    for (int i = 0; i < kFours; ++i) start(i);
  }

 private:
  const char* column_;
  int stride_;
  bool inside_;
  uint32_t to_, tokens_;
};

}  // namespace jax_na::cuda
