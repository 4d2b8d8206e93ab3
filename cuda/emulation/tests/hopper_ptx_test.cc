// Calibrates the emulation of what Hopper GPUs have: images of boxes in shared memory as they were
// measured on an H100, and products against sums.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <random>
#include <string>

#include "cuda/emulation/tests/array.h"
#include "cuda/emulation/tests/check.h"
#include "cuda/emulation/tests/hopper_ptx.h"
#include "cuda/ptx/launch.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/named_barrier.h"
#include "cuda/ptx/registers.h"
#include "cuda/ptx/shared.h"
#include "cuda/ptx/stmatrix.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"

namespace jax_na::cuda {
namespace {

using emulation::Array;
using emulation::check;

// ---- Boxes
// ---------------------------------------------------------------------------------------

struct Place {
  int column, x, y, z, entry;
};

// Loads a box to `offset` behind a 1024-byte boundary, shows what is there, and stores it again.
__global__ void load_box(const __grid_constant__ CUtensorMap from,
                         const __grid_constant__ CUtensorMap to, Place at, Place store_at,
                         int offset, int bytes, uint16_t* image) {
  JAX_NA_SHARED(shared);
  const uint32_t base = aligned_base(shared), barrier = base, box = base + kAlignment + offset;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(barrier, 1);
    ptx::mbarrier_init_fence();
    ptx::mbarrier_arrive_expect(barrier, bytes);
    ptx::tma_load(box, &from, barrier, at.column, at.x, at.y, at.z, at.entry);
  }
  __syncthreads();
  ptx::mbarrier_wait(barrier, 0);
  const unsigned char* first = shared + (box - ptx::shared_address(shared));
  for (int i = threadIdx.x; i < bytes / 2; i += blockDim.x)
    image[i] = reinterpret_cast<const uint16_t*>(first)[i];
  if (threadIdx.x == 0) {
    ptx::tma_store(&to, box, store_at.column, store_at.x, store_at.y, store_at.z, store_at.entry);
    ptx::tma_store_commit();
    ptx::tma_store_wait_read();
  }
}

// Element (column, x, y, z, entry) of the tensor is its own index; 1 is added, so that 0 is none.
void test_boxes(CUtensorMapSwizzle swizzle, int columns, const int (&sides)[kAxes - 1],
                const int (&steps)[kAxes], int offset, std::mt19937& random) {
  const int sizes[kAxes] = {72, 6, 5, 4, 2};
  const int box[kAxes] = {columns, sides[0], sides[1], sides[2], sides[3]};
  const int elements = 72 * 6 * 5 * 4 * 2, rows = sides[0] * sides[1] * sides[2] * sides[3];
  Array<uint16_t> from(elements), to(elements), image(rows * columns);
  for (int i = 0; i < elements; ++i) from[i] = static_cast<uint16_t>(i + 1), to[i] = 0;
  auto index = [&](int column, int x, int y, int z, int entry) {
    const int at[kAxes] = {column, x, y, z, entry};
    int all = 0;
    for (int a = kAxes - 1; a >= 0; --a) {
      if (at[a] < 0 || at[a] >= sizes[a]) return -1;
      all = all * sizes[a] + at[a];
    }
    return all;
  };
  auto draw = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  const Place at = {draw(-9, 70), draw(-3, 6), draw(-3, 5), draw(-3, 4), draw(-1, 1)};
  const Place back = {draw(0, 70), draw(0, 6), draw(0, 5), draw(0, 4), draw(0, 1)};
  CUtensorMap load, store;
  check(encode(load, from.data(), sizes, box, steps, swizzle) == CUDA_SUCCESS &&
            encode(store, to.data(), sizes, box, steps, swizzle) == CUDA_SUCCESS,
        "a tensor map");
  const int bytes = rows * columns * 2;
  ptx::launch(load_box, 1, 64, 3 * kAlignment + offset + bytes, nullptr, load, store, at, back,
              offset, bytes, image.data());
  int row = 0, wrong = 0, stored = 0;
  for (int entry = 0; entry < sides[3]; ++entry)
    for (int z = 0; z < sides[2]; ++z)
      for (int y = 0; y < sides[1]; ++y)
        for (int x = 0; x < sides[0]; ++x, ++row)
          for (int column = 0; column < columns; ++column) {
            const int source = index(at.column + column, at.x + x * steps[1], at.y + y * steps[2],
                                     at.z + z * steps[3], at.entry + entry * steps[4]);
            const int expected = source < 0 ? 0 : source + 1;
            // Chunks of 16 bytes; the pattern follows the address.
            int chunk = column / 8;
            const int in_memory = row + offset / (2 * columns);
            if (swizzle == CU_TENSOR_MAP_SWIZZLE_128B) chunk ^= in_memory & 7;
            if (swizzle == CU_TENSOR_MAP_SWIZZLE_64B) chunk ^= in_memory >> 1 & 3;
            if (swizzle == CU_TENSOR_MAP_SWIZZLE_32B) chunk ^= in_memory >> 2 & 1;
            wrong += image[row * columns + 8 * chunk + column % 8] != expected;
            const int target =
                index(back.column + column, back.x + x * steps[1], back.y + y * steps[2],
                      back.z + z * steps[3], back.entry + entry * steps[4]);
            if (target < 0) continue;
            wrong += to[target] != expected;
            stored += expected != 0;
          }
  for (int i = 0; i < elements; ++i) stored -= to[i] != 0;
  const std::string name = "a box of " + std::to_string(columns) + " columns, swizzle " +
                           std::to_string(static_cast<int>(swizzle));
  check(wrong == 0, name + ": " + std::to_string(wrong) + " wrong elements");
  check(stored == 0, name + ": elements outside of the box were stored");
}

void test_all_boxes() {
  std::mt19937 random(1);
  for (int turn = 0; turn < 12; ++turn) {
    const int offset = 128 * (turn % 8);
    test_boxes(CU_TENSOR_MAP_SWIZZLE_128B, 64, {3, 2, 2, 1}, {1, 1, 1, 1, 1}, offset, random);
    test_boxes(CU_TENSOR_MAP_SWIZZLE_128B, 64, {2, 1, 2, 1}, {1, 2, 3, 2, 1}, offset, random);
    test_boxes(CU_TENSOR_MAP_SWIZZLE_64B, 32, {4, 3, 1, 1}, {1, 1, 1, 1, 1}, offset, random);
    test_boxes(CU_TENSOR_MAP_SWIZZLE_32B, 16, {5, 3, 1, 2}, {1, 1, 2, 1, 1}, offset, random);
    test_boxes(CU_TENSOR_MAP_SWIZZLE_NONE, 24, {7, 2, 1, 1}, {1, 1, 1, 1, 1}, offset, random);
  }
}

void test_refusals() {
  Array<uint16_t> data(4096);
  const int sizes[kAxes] = {64, 4, 4, 2, 2}, box[kAxes] = {64, 2, 2, 2, 1};
  const int ones[kAxes] = {1, 1, 1, 1, 1};
  const auto swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
  CUtensorMap map;
  check(encode(map, data.data(), sizes, box, ones, swizzle) == CUDA_SUCCESS, "a tensor map");
  auto refuses = [&](const int (&s)[kAxes], const int (&b)[kAxes], const int (&steps)[kAxes]) {
    return encode(map, data.data(), s, b, steps, swizzle) == CUDA_ERROR_INVALID_VALUE;
  };
  check(refuses(sizes, box, {1, 9, 1, 1, 1}), "a step of 9");
  check(refuses(sizes, {64, 264, 1, 1, 1}, ones), "a box side of 264");
  check(refuses({60, 4, 4, 2, 2}, box, ones), "strides that are not multiples of 16 bytes");
  check(refuses({64, 0, 4, 2, 2}, box, ones), "an empty axis");
  check(refuses(sizes, {72, 2, 2, 2, 1}, ones), "a row that is wider than the swizzle");
}

// ---- Products
// ------------------------------------------------------------------------------------

// Writes rows of 64 elements as boxes with SWIZZLE_128B are: panels of 64 columns.
template <typename Of>
void fill(unsigned char* panels, int panel_bytes, int rows, int columns, Of of) {
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    const int row = i / columns, column = i % columns, chunk = (column % 64 / 8) ^ (row & 7);
    auto* at = reinterpret_cast<Element*>(panels + column / 64 * panel_bytes + 128 * row +
                                          16 * chunk + 2 * (column % 8));
    *at = Element(of(row, column));
  }
}

constexpr int kRows = 64;

template <int kColumns>
void write_product(const float (&d)[kColumns / 2], float* out) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    out[row * kColumns + 8 * (i / 4) + 2 * (lane % 4) + i % 2] = d[i];
  }
}

// out = a b^T: a of 64 rows and b of kColumns rows, both of kDepth elements.
template <int kColumns, int kDepth>
__global__ void multiply_rows(float* out) {
  JAX_NA_SHARED(shared);
  const uint32_t base = aligned_base(shared);
  unsigned char* first = shared + (base - ptx::shared_address(shared));
  constexpr int kAPanel = kRows * 128, kBPanel = kColumns * 128, kPanels = kDepth / 64;
  fill(first, kAPanel, kRows, kDepth, left);
  fill(first + kPanels * kAPanel, kBPanel, kColumns, kDepth, right);
  ptx::fence_async_shared();
  __syncthreads();
  const uint64_t a = ptx::wgmma_operand(base, 0);
  const uint64_t b = ptx::wgmma_operand(base + kPanels * kAPanel, 0);
  float d[kColumns / 2];
  ptx::wgmma_fence();
  for (int step = 0; step < kDepth / 16; ++step)
    ptx::wgmma<Element, kColumns>(d, ptx::wgmma_advance(a, step / 4 * kAPanel + 32 * (step % 4)),
                                  ptx::wgmma_advance(b, step / 4 * kBPanel + 32 * (step % 4)),
                                  step > 0);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  write_product<kColumns>(d, out);
}

// out = a b: a of 64 rows and kDepth columns in registers, b of kDepth rows of kColumns elements.
template <int kColumns, int kDepth>
__global__ void multiply_columns(float* out) {
  JAX_NA_SHARED(shared);
  const uint32_t base = aligned_base(shared);
  constexpr int kPanel = kDepth * 128;
  fill(shared + (base - ptx::shared_address(shared)), kPanel, kDepth, kColumns, right);
  ptx::fence_async_shared();
  __syncthreads();
  const uint64_t b = ptx::wgmma_operand(base, kPanel);
  float d[kColumns / 2];
  ptx::wgmma_fence();
  for (int step = 0; step < kDepth / 16; ++step) {
    uint32_t a[4];
    pack_left(a, 16 * step);
    ptx::wgmma<Element, kColumns>(d, a, ptx::wgmma_advance(b, step * 16 * 128), step > 0);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  write_product<kColumns>(d, out);
}

void launch_product(void (*kernel)(float*), float* out) {
  constexpr int kShared = 128 << 10;
  const void* address = ptx::address_of(kernel);
  check(cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared) ==
                cudaSuccess &&
            ptx::launch(kernel, 1, 128, kShared, nullptr, out) == cudaSuccess,
        "a launch");
}

template <int kColumns, int kDepth>
void test_products() {
  Array<float> rows(kRows * kColumns), columns(kRows * kColumns);
  launch_product(multiply_rows<kColumns, kDepth>, rows.data());
  launch_product(multiply_columns<kColumns, kDepth>, columns.data());
  int wrong = 0;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      float by_rows = 0, by_columns = 0;
      for (int k = 0; k < kDepth; ++k) {
        by_rows += left(row, k) * right(column, k);
        by_columns += left(row, k) * right(k, column);
      }
      wrong += rows[row * kColumns + column] != by_rows;
      wrong += columns[row * kColumns + column] != by_columns;
    }
  }
  check(wrong == 0, "wgmma of " + std::to_string(kColumns) + " columns, " + std::to_string(wrong) +
                        " wrong elements");
}

// ---- The rest
// ------------------------------------------------------------------------------------

// What stmatrix writes, ldmatrix reads.
__global__ void there_and_back(uint32_t* wrong) {
  JAX_NA_SHARED(shared);
  const uint32_t at = ptx::shared_address(shared) + 16 * threadIdx.x;
  uint32_t words[4], again[4];
  for (uint32_t i = 0; i < 4; ++i) words[i] = 100 * threadIdx.x + i;
  ptx::stmatrix(at, words);
  __syncwarp();
  ptx::ldmatrix(again, at);
  wrong[threadIdx.x] = 0;
  for (int i = 0; i < 4; ++i) wrong[threadIdx.x] += words[i] != again[i];
}

// Three warpgroups, of which the second and third take turns, ten times each.
__global__ void take_turns(int* order) {
  JAX_NA_SHARED(shared);
  const int warpgroup = static_cast<int>(threadIdx.x / 128) - 1;
  int& turn = *reinterpret_cast<int*>(shared);
  if (threadIdx.x == 0) turn = 0;
  __syncthreads();
  if (warpgroup < 0) {
    ptx::give_up_registers<56>();
    return;
  }
  ptx::take_registers<224>();
  if (warpgroup == 1) ptx::barrier_arrive(1, 256);
  for (int i = 0; i < 10; ++i) {
    ptx::barrier_sync(1 + warpgroup, 256);
    if (threadIdx.x % 128 == 0) order[turn++] = warpgroup;
    ptx::barrier_arrive(1 + (warpgroup + 1) % 2, 256);
  }
}

// Adds boxes of float32 to a tensor, from every block.
__global__ void add_boxes(const __grid_constant__ CUtensorMap to) {
  JAX_NA_SHARED(shared);
  for (int i = threadIdx.x; i < 4 * 32; i += blockDim.x)
    reinterpret_cast<float*>(shared)[i] = static_cast<float>(i);
  ptx::fence_async_shared();
  __syncthreads();
  if (threadIdx.x != 0) return;
  ptx::tma_reduce_add(&to, ptx::shared_address(shared), ptx::tma_evict_last(), 0, 1, 0, 0, 0);
  ptx::tma_store_commit();
  ptx::tma_store_wait_read();
}

void test_the_rest() {
  Array<uint32_t> wrong(32);
  ptx::launch(there_and_back, 1, 32, 512, nullptr, wrong.data());
  for (int lane = 0; lane < 32; ++lane) check(wrong[lane] == 0, "stmatrix and ldmatrix");

  Array<int> order(20);
  ptx::launch(take_turns, 1, 384, 128, nullptr, order.data());
  for (int i = 0; i < 20; ++i)
    check(order[i] == i % 2, "named barriers make warpgroups take turns");

  Array<float> sums(6 * 32);
  for (int i = 0; i < 6 * 32; ++i) sums[i] = 1;
  CUtensorMap map;
  check(encode(map, sums.data(), {32, 6, 1, 1, 1}, {32, 4, 1, 1, 1}, {1, 1, 1, 1, 1},
               CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_DATA_TYPE_FLOAT32) == CUDA_SUCCESS,
        "a tensor map of float32");
  ptx::launch(add_boxes, 3, 32, 512, nullptr, map);
  for (int i = 0; i < 6 * 32; ++i) {
    const bool inside = 32 <= i && i < 5 * 32;
    check(sums[i] == 1.f + (inside ? 3.f * static_cast<float>(i - 32) : 0.f), "sums by TMA");
  }
}

}  // namespace
}  // namespace jax_na::cuda

int main() {
  using namespace jax_na::cuda;
  test_all_boxes();
  test_refusals();
  test_products<32, 64>();
  test_products<64, 128>();
  test_products<128, 192>();
  test_the_rest();
  return jax_na::emulation::report_checks();
}
