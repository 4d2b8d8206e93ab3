// Mistakes in a ring of stages, and others that only Hopper GPUs allow, which the emulation has to
// find.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "cuda/emulation/block.h"
#include "cuda/emulation/tests/array.h"
#include "cuda/emulation/tests/check.h"
#include "cuda/emulation/tests/hopper_ptx.h"
#include "cuda/ptx/launch.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/registers.h"
#include "cuda/ptx/shared.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {
namespace {

using emulation::Array;
using emulation::check;
using emulation::complaint_of;
using emulation::expect_complaint;

enum class Mistake {
  kNone,
  kParityOfEmpty,
  kParityOfFull,
  kTooFewBytes,
  kTooManyBytes,
  kNoArrival,
  kNoWaitForData,
  kNoWaitForRoom,
  kReleaseTooEarly,
  kNoWaitForProducts,
  kProductsDiffer,
  kNoInit,
};

constexpr int kTiles = 7, kStages = 2, kTile = 64, kTileBytes = kTile * 128;

// A warpgroup's thread loads tiles into a ring, and another warpgroup adds up left times tile.
template <Mistake kMistake>
__global__ void ring(const __grid_constant__ CUtensorMap tokens, float* out) {
  JAX_NA_SHARED(shared);
  const uint32_t base = aligned_base(shared), barriers = base + kStages * kTileBytes;
  auto full = [&](int tile) { return barriers + 8 * (tile % kStages); };
  auto empty = [&](int tile) { return barriers + 8 * (kStages + tile % kStages); };
  auto parity = [](int tile) { return tile / kStages & 1; };
  if (threadIdx.x == 0 && kMistake != Mistake::kNoInit) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(full(stage), 1);
      ptx::mbarrier_init(empty(stage), 4);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    for (int tile = 0; tile < kTiles && threadIdx.x == 0; ++tile) {
      if (kMistake != Mistake::kNoWaitForRoom)
        ptx::mbarrier_wait(empty(tile), parity(tile) ^ (kMistake != Mistake::kParityOfEmpty));
      ptx::mbarrier_arrive_expect(full(tile), kMistake == Mistake::kTooFewBytes    ? kTileBytes / 2
                                              : kMistake == Mistake::kTooManyBytes ? kTileBytes * 2
                                                                                   : kTileBytes);
      ptx::tma_load(base + tile % kStages * kTileBytes, &tokens, full(tile), 0, tile * kTile, 0, 0,
                    0);
    }
    return;
  }
  float d[32];
  uint32_t a[4][4];
  for (int step = 0; step < 4; ++step) pack_left(a[step], 16 * step);
  for (int tile = 0; tile < kTiles; ++tile) {
    if (kMistake != Mistake::kNoWaitForData)
      ptx::mbarrier_wait(full(tile), parity(tile) ^ (kMistake == Mistake::kParityOfFull));
    const int other = kMistake == Mistake::kProductsDiffer && threadIdx.x / 32 == 6;
    const uint64_t b = ptx::wgmma_operand(base + (tile + other) % kStages * kTileBytes, 0);
    ptx::wgmma_fence();
    for (int step = 0; step < 4; ++step)
      ptx::wgmma<Element, 64>(d, a[step], ptx::wgmma_advance(b, step * 16 * 128), tile + step > 0);
    ptx::wgmma_commit();
    auto release = [&] {
      if (threadIdx.x % 32 == 0 && kMistake != Mistake::kNoArrival)
        ptx::mbarrier_arrive(empty(tile));
    };
    if (kMistake == Mistake::kReleaseTooEarly) release();
    if (kMistake != Mistake::kNoWaitForProducts) ptx::wgmma_wait<0>();
    if (kMistake != Mistake::kReleaseTooEarly) release();
  }
  const int warp = threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
  for (int i = 0; i < 32; ++i) {
    const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    out[row * 64 + 8 * (i / 4) + 2 * (lane % 4) + i % 2] = d[i];
  }
}

// Says on stderr when the sums are wrong.
template <Mistake kMistake>
void run_ring(int seed) {
  emulation::set_seed(static_cast<uint64_t>(seed));
  Array<Element> tokens(kTiles * kTile * 64);
  for (int i = 0; i < kTiles * kTile * 64; ++i) tokens[i] = Element(right(i / 64, i % 64));
  CUtensorMap map;
  encode(map, tokens.data(), {64, kTiles * kTile, 1, 1, 1}, {64, kTile, 1, 1, 1}, {1, 1, 1, 1, 1},
         CU_TENSOR_MAP_SWIZZLE_128B);
  Array<float> out(64 * 64);
  ptx::launch(ring<kMistake>, 1, 256, kStages * kTileBytes + 2 * kAlignment, nullptr, map,
              out.data());
  for (int row = 0; row < 64; ++row) {
    for (int column = 0; column < 64; ++column) {
      float sum = 0;
      for (int i = 0; i < kTiles * kTile; ++i) sum += left(row, i % kTile) * right(i, column);
      if (out[row * 64 + column] == sum) continue;
      std::fputs("wrong sums", stderr);
      return;
    }
  }
}

// With some orders of threads and copies the mistake shows, as `complaint`; none shows otherwise.
template <Mistake kMistake>
void test_mistake(const char* name, const std::string& complaint) {
  constexpr int kSeeds = 8;
  int found = 0;
  std::string other;
  for (int seed = 1; seed <= kSeeds; ++seed) {
    const std::string text = complaint_of([&] { run_ring<kMistake>(seed); });
    if (complaint.empty() ? text.empty() : text.find(complaint) != std::string::npos)
      ++found;
    else
      other = text;
  }
  check(found > (complaint.empty() ? kSeeds - 1 : 0),
        std::string(name) + ": found " + std::to_string(found) + " times, else \"" + other + "\"");
}

__global__ void store_below_zero(const __grid_constant__ CUtensorMap map) {
  JAX_NA_SHARED(shared);
  if (threadIdx.x == 0) ptx::tma_store(&map, ptx::shared_address(shared), 0, -1, 0, 0, 0);
}

__global__ void end_before_the_store(const __grid_constant__ CUtensorMap map) {
  JAX_NA_SHARED(shared);
  if (threadIdx.x == 0) ptx::tma_store(&map, ptx::shared_address(shared), 0, 0, 0, 0, 0);
}

__global__ void take_too_many_registers(const __grid_constant__ CUtensorMap) {
  if (threadIdx.x >= 128) ptx::take_registers<240>();
}

__global__ void count_wrong_at_a_barrier(const __grid_constant__ CUtensorMap) {
  ptx::barrier_sync(1, threadIdx.x < 128 ? 256 : 128);
}

__global__ void arrive_too_often(const __grid_constant__ CUtensorMap) {
  JAX_NA_SHARED(shared);
  const uint32_t barrier = ptx::shared_address(shared);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(barrier, 1);
    ptx::mbarrier_arrive_expect(barrier, 16);
    ptx::mbarrier_arrive(barrier);
  }
}

void test_other_mistakes() {
  auto expect = [](void (*kernel)(CUtensorMap), const char* complaint) {
    expect_complaint(
        [&] {
          Array<Element> data(64 * 8);
          CUtensorMap map;
          encode(map, data.data(), {64, 8, 1, 1, 1}, {64, 8, 1, 1, 1}, {1, 1, 1, 1, 1},
                 CU_TENSOR_MAP_SWIZZLE_128B);
          ptx::launch(kernel, 1, 384, 2048, nullptr, map);
        },
        complaint);
  };
  expect(store_below_zero, "a store begins at -1, below 0");
  expect(end_before_the_store, "ends before TMA has read what it stores");
  expect(take_too_many_registers, "waiting for registers");
  expect(count_wrong_at_a_barrier, "barrier 1: some say");
  expect(arrive_too_often, "more than 1 arrivals in a phase");
}

}  // namespace
}  // namespace jax_na::cuda

int main() {
  using namespace jax_na::cuda;
  test_mistake<Mistake::kNone>("no mistake", "");
  test_mistake<Mistake::kParityOfEmpty>("the parity of empty stages", "every thread waits");
  test_mistake<Mistake::kParityOfFull>("the parity of full stages", "every thread waits");
  test_mistake<Mistake::kTooFewBytes>("too few bytes", "more than the phase expects");
  test_mistake<Mistake::kTooManyBytes>("too many bytes", "every thread waits");
  test_mistake<Mistake::kNoArrival>("no arrival", "every thread waits");
  test_mistake<Mistake::kNoWaitForData>("no wait for data", "wrong sums");
  test_mistake<Mistake::kNoWaitForRoom>("no wait for room", "more than 1 arrivals");
  test_mistake<Mistake::kReleaseTooEarly>("a stage released too early", "wrong sums");
  test_mistake<Mistake::kNoWaitForProducts>("no wait for products", "wrong sums");
  test_mistake<Mistake::kProductsDiffer>("products differ", "issued different products");
  test_mistake<Mistake::kNoInit>("no barriers", "there is no mbarrier");
  test_other_mistakes();
  return jax_na::emulation::report_checks();
}
