// The shared memory of the kernel for the gradient of the queries: that of the forward kernel, with
// the cotangents of results beside the queries, and keys that stay for two products.
#pragma once

#include "cuda/hopper/shared.h"

namespace jax_na::cuda {

template <typename T, int kHeadDimension, int kBlockKeys>
struct HopperQueryGradientShape : HopperShape<T, kHeadDimension, kBlockKeys, 2, 1> {
  using Forward = HopperShape<T, kHeadDimension, kBlockKeys, 2, 1>;
  static constexpr int kConsumerRegisters = 224;  // of a thread
  static constexpr int kOtherRegisters = 56;
  static constexpr bool kValuesLate = false;
  static constexpr int kQueryTensors = 2;
  static constexpr int kStages = 3;  // of which keys need two, and one to be ahead
  static constexpr int bytes(int query_buffers) {
    return query_buffers * kQueryTensors * Forward::kWarpgroups * Forward::kQueryBytes +
           2 * kStages * Forward::kStageBytes + Forward::kControlBytes + 1024;
  }
  static constexpr int kQueryBuffers = bytes(2) <= kMaxSharedBytes ? 2 : 1;
  static constexpr int kSharedBytes = bytes(kQueryBuffers);
  static_assert(kSharedBytes <= kMaxSharedBytes, "more shared memory than there is");
  static_assert(kHeadDimension % kPanelElements == 0, "panels are whole");

  // From the aligned beginning.
  static constexpr int kQueryAt = 0;
  static constexpr int kDoutAt = kQueryBuffers * Forward::kWarpgroups * Forward::kQueryBytes;
  static constexpr int kKeyAt = kQueryTensors * kDoutAt;
  static constexpr int kValueAt = kKeyAt + kStages * Forward::kStageBytes;
  static constexpr int kControlAt = kValueAt + kStages * Forward::kStageBytes;
};

}  // namespace jax_na::cuda
