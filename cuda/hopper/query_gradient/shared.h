// The shared memory of the kernel for the gradient of the queries: that of the forward kernel, with
// the cotangents of results beside the queries, and keys that stay for two products. Where a head
// has no more features than 64 bytes hold, rows have 64 bytes.
#pragma once

#include "cuda/hopper/shared.h"

namespace jax_na::cuda {

template <typename T, int kHeadDimension, int kBlockKeys>
struct HopperQueryGradientShape
    : HopperShape<T, kHeadDimension, kBlockKeys, 2, (kHeadDimension > 32 ? 1 : 2)> {
  using Forward = HopperShape<T, kHeadDimension, kBlockKeys, 2, (kHeadDimension > 32 ? 1 : 2)>;
  static constexpr int kConsumerRegisters = Forward::kResident == 2 ? 96 : 224;  // of a thread
  static constexpr int kOtherRegisters = Forward::kResident == 2 ? 48 : 56;
  static constexpr bool kValuesLate = false;
  static constexpr int kLineBytes = kHeadDimension > 32 ? 128 : 64;
  static constexpr int kLineElements = kLineBytes / 2;
  static constexpr int kRowPanelBytes = kWarpgroupRows * kLineBytes;
  static constexpr int kQueryTensors = 2;
  static constexpr int kQueryBytes = Forward::kPanels * kRowPanelBytes;
  static constexpr int kStagePanelBytes = kBlockKeys * kLineBytes;
  static constexpr int kStageBytes = Forward::kPanels * kStagePanelBytes;
  // Keys of two tiles are needed at a time, and one to be ahead; values of one.
  static constexpr int kStages = 3;
  static constexpr int kValueStages = kHeadDimension > 192 ? 2 : 3;
  static constexpr int bytes(int query_buffers) {
    return query_buffers * kQueryTensors * Forward::kWarpgroups * kQueryBytes +
           (kStages + kValueStages) * kStageBytes + Forward::kControlBytes + 1024;
  }
  static constexpr int kQueryBuffers = bytes(2) <= Forward::kMostBytes ? 2 : 1;
  static constexpr int kSharedBytes = bytes(kQueryBuffers);
  static_assert(kSharedBytes <= Forward::kMostBytes, "more shared memory than there is");
  static_assert(kQueryBytes >= Forward::kOutBytes, "results leave from the place of queries");

  // From the aligned beginning.
  static constexpr int kQueryAt = 0;
  static constexpr int kDoutAt = kQueryBuffers * Forward::kWarpgroups * kQueryBytes;
  static constexpr int kKeyAt = kQueryTensors * kDoutAt;
  static constexpr int kValueAt = kKeyAt + kStages * kStageBytes;
  static constexpr int kControlAt = kValueAt + kValueStages * kStageBytes;
};

}  // namespace jax_na::cuda
