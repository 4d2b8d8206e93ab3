// Calibrates the emulation: every operation on examples worked out by hand from the PTX ISA, and
// every mistake that it promises to find.
#include <cstdio>

#include "cuda/emulation/tests/array.h"
#include "cuda/emulation/tests/check.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/launch.h"
#include "cuda/ptx/ldmatrix.h"
#include "cuda/ptx/math.h"
#include "cuda/ptx/mma.h"
#include "cuda/ptx/shared.h"
#include "cuda/ptx/shared_words.h"

namespace jax_na::cuda {
namespace {

using emulation::Array;
using emulation::check;
using emulation::expect_complaint;

// ---- ldmatrix
// ------------------------------------------------------------------------------------

// Element e of row r of matrix i is the number 1000 i + 10 r + e; rows lie 32 bytes apart, matrices
// in the order 2, 0, 3, 1.
__global__ void load_matrices(uint32_t* plain, uint32_t* transposed) {
  JAX_NA_SHARED(shared);
  const int lane = threadIdx.x, i = lane / 8, r = lane % 8;
  const int places[] = {1, 3, 0, 2};
  const int row = 8 * places[i] + r;
  auto* elements = reinterpret_cast<uint16_t*>(shared + 32 * row);
  for (int e = 0; e < 8; ++e) elements[e] = static_cast<uint16_t>(1000 * i + 10 * r + e);
  __syncwarp();
  uint32_t to[4];
  ptx::ldmatrix(to, ptx::shared_address(shared) + 32 * row);
  for (int m = 0; m < 4; ++m) plain[4 * lane + m] = to[m];
  ptx::ldmatrix_transposed(to, ptx::shared_address(shared) + 32 * row);
  for (int m = 0; m < 4; ++m) transposed[4 * lane + m] = to[m];
}

void test_ldmatrix() {
  Array<uint32_t> plain(128), transposed(128);
  check(ptx::launch(load_matrices, 1, 32, 1024, nullptr, plain.data(), transposed.data()) ==
            cudaSuccess,
        "a launch");
  // Lane 13 is g = 3, t = 1: columns 2 and 3 of row 3, and transposed rows 2 and 3 of column 3.
  for (uint32_t i = 0; i < 4; ++i) {
    check(plain[4 * 13 + i] == ((1000 * i + 32) | (1000 * i + 33) << 16), "ldmatrix, lane 13");
    check(transposed[4 * 13 + i] == ((1000 * i + 23) | (1000 * i + 33) << 16),
          "ldmatrix.trans, lane 13");
  }
  check(plain[4 * 31] == (76u | 77u << 16), "ldmatrix, lane 31");
  check(transposed[4 * 31] == (67u | 77u << 16), "ldmatrix.trans, lane 31");
}

// ---- mma
// -----------------------------------------------------------------------------------------

// a(row, k) and b(k, column), small integers that every type holds, placed in registers by the
// tables of the PTX ISA ("Matrix fragments for mma.m16n8k16" and "mma.m16n8k8").
float a_of(int row, int k) {
  return static_cast<float>((3 * row + 5 * k) % 7 - 3);
}
float b_of(int k, int column) {
  return static_cast<float>((2 * k + 3 * column + k * column) % 5 - 2);
}

uint32_t word_of(float x) {
  return __float_as_uint(x);
}
template <typename T>
uint32_t words_of(float x, float y) {
  return T(x).bits | uint32_t{T(y).bits} << 16;
}

template <typename T>
__global__ void multiply_16_bit(float* c) {
  const int lane = threadIdx.x, group = lane >> 2, in_group = lane % 4;
  uint32_t a[4], b[2];
  for (int i = 0; i < 8; i += 2) {  // a_i: row, column
    const int row = (i < 2 || (4 <= i && i < 6)) ? group : group + 8;
    const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    a[i / 2] = words_of<T>(a_of(row, column), a_of(row, column + 1));
  }
  for (int i = 0; i < 4; i += 2) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    b[i / 2] = words_of<T>(b_of(row, group), b_of(row + 1, group));
  }
  float sums[4] = {100, 200, 300, 400};
  ptx::mma(sums, a, b[0], b[1], sums, T());
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? group : group + 8;
    c[8 * row + in_group * 2 + (i & 1)] = sums[i] - 100.f * static_cast<float>(i + 1);
  }
}

__global__ void multiply_tf32(float* c) {
  const int lane = threadIdx.x, group = lane >> 2, in_group = lane % 4;
  const uint32_t a[4] = {word_of(a_of(group, in_group)), word_of(a_of(group + 8, in_group)),
                         word_of(a_of(group, in_group + 4)),
                         word_of(a_of(group + 8, in_group + 4))};
  const float zeros[4] = {};
  float sums[4];
  ptx::mma(sums, a, word_of(b_of(in_group, group)), word_of(b_of(in_group + 4, group)), zeros,
           float());
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? group : group + 8;
    c[8 * row + in_group * 2 + (i & 1)] = sums[i];
  }
}

void test_mma(void (*kernel)(float*), int depth, const char* what) {
  Array<float> c(128);
  ptx::launch(kernel, 1, 32, 0, nullptr, c.data());
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float sum = 0;
      for (int k = 0; k < depth; ++k) sum += a_of(row, k) * b_of(k, column);
      check(c[8 * row + column] == sum, what);
    }
  }
}

__global__ void multiply_fine(float* c) {
  // 1 + 2^-10 is a TF32 number; the bits below it are not seen.
  const uint32_t fine = word_of(1 + 0x1p-10f + 0x1p-11f + 0x1p-20f), one = word_of(1);
  const uint32_t a[4] = {fine, fine, 0, 0};
  float sums[4] = {};
  ptx::mma(sums, a, threadIdx.x % 4 == 0 ? one : 0, 0, sums, float());
  c[threadIdx.x] = sums[0];
}

// ---- The rest
// ------------------------------------------------------------------------------------

// Copies a table to shared memory in two groups; every warp sees what all of them copied.
__global__ void copy_and_sum(const float* from, int count, float* sums) {
  JAX_NA_SHARED(shared);
  const uint32_t base = ptx::shared_address(shared);
  for (int i = threadIdx.x; i < 64; i += blockDim.x)
    ptx::cp_async(base + 16 * i, from + 4 * i, 4 * i < count);
  ptx::cp_async_commit();
  ptx::cp_async_4(base + 1024 + 4 * threadIdx.x, from + threadIdx.x, true);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();
  __syncthreads();
  const auto* table = reinterpret_cast<const float*>(shared);
  float sum = 0;
  for (int i = threadIdx.x % 32; i < 256; i += 32) sum += table[i];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  check(table[256 + threadIdx.x] != table[256 + threadIdx.x], "a copy under way is poison");
  ptx::cp_async_wait<0>();
  check(table[256 + threadIdx.x] == from[threadIdx.x], "cp.async of 4 bytes");
  if (threadIdx.x % 32 == 0) atomicAdd(sums + blockIdx.x, sum);
}

__global__ void talk(int* out) {
  const int lane = threadIdx.x % 32;
  const unsigned odd = __ballot_sync(~0u, lane % 2);
  out[threadIdx.x] = __shfl_sync(~0u, 100 * lane, (lane + 5) % 32) + (odd == 0xaaaaaaaau) +
                     (__any_sync(~0u, lane == 7) ? 2 : 0);
}

void test_the_rest() {
  Array<float> from(256), sums(2), fine(32);
  float expected = 0;
  for (int i = 0; i < 256; ++i) {
    from[i] = static_cast<float>(i);
    if (i < 200) expected += static_cast<float>(i);
  }
  sums[0] = sums[1] = 0;
  check(ptx::launch(copy_and_sum, 2, 64, 1024 + 256, nullptr, from.data(), 200, sums.data()) ==
            cudaSuccess,
        "a launch");
  check(sums[0] == 2 * expected && sums[1] == 2 * expected, "cp.async, shuffles and barriers");
  ptx::launch(multiply_fine, 1, 32, 0, nullptr, fine.data());
  check(fine[0] == 1 + 0x1p-10f, "mma truncates to TF32");

  Array<int> out(64);
  ptx::launch(talk, 1, 64, 0, nullptr, out.data());
  for (int i = 0; i < 64; ++i) check(out[i] == 100 * ((i % 32 + 5) % 32) + 3, "__shfl_sync");

  check(ptx::to_tf32(1 + 0x1p-11f) == word_of(1 + 0x1p-10f), "to_tf32, a tie");
  check(ptx::to_tf32(-1 - 0x1p-12f) == word_of(-1), "to_tf32, down");
  check(ptx::exp2(-INFINITY) == 0 && ptx::exp2(-127) == 0 && ptx::exp2(-126) == 0x1p-126f &&
            ptx::exp2(3) == 8,
        "exp2");

  check(__nv_bfloat16(1 + 0x1p-8f).bits == 0x3f80 && __nv_bfloat16(1 + 0x3p-8f).bits == 0x3f82,
        "bfloat16 rounds ties to even");
  check(__half(1 + 0x1p-11f).bits == 0x3c00 && __half(1 + 0x3p-11f).bits == 0x3c02 &&
            __half(65519.f).bits == 0x7bff && __half(65520.f).bits == 0x7c00 &&
            __half(-0x1p-24f).bits == 0x8001 && __half(0x1p-25f).bits == 0 &&
            __half(0x1.ff8p-15f).bits == 0x3ff && __half(0x1.ffcp-15f).bits == 0x400,
        "float16 rounds ties to even");
  for (int bits = 0; bits < 0x7c00; ++bits) {
    __half x;
    x.bits = static_cast<uint16_t>(bits);
    check(__half(static_cast<float>(x)).bits == bits, "float16 there and back");
  }
}

// ---- Mistakes
// ------------------------------------------------------------------------------------

__global__ void forget_to_wait(float* out) {
  JAX_NA_SHARED(shared);
  ptx::cp_async_4(ptx::shared_address(shared) + 4 * threadIdx.x, out, true);
  ptx::cp_async_commit();
  __syncthreads();
  out[0] = reinterpret_cast<const float*>(shared)[0];
}

__global__ void forget_a_barrier(float* out) {
  JAX_NA_SHARED(shared);
  auto* table = reinterpret_cast<float*>(shared);
  table[threadIdx.x] = 1;
  __syncwarp();
  out[threadIdx.x] = table[threadIdx.x ^ 32];
}

__global__ void diverge(float* out) {
  if (threadIdx.x < 16)
    __syncwarp();
  else
    out[0] = __shfl_sync(~0u, 1.f, 0);
}

__global__ void part_at_a_barrier(float*) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncwarp();
}

__global__ void end_before_mma(float* out) {
  if (threadIdx.x == 3) return;
  float c[4] = {};
  const uint32_t a[4] = {};
  ptx::mma(c, a, 0, 0, c, float());
  out[0] = c[0];
}

__global__ void read_past_shared(float* out) {
  JAX_NA_SHARED(shared);
  out[0] = __uint_as_float(ptx::load_shared(ptx::shared_address(shared) + 256));
}

__global__ void misalign(float* out) {
  JAX_NA_SHARED(shared);
  out[0] = __uint_as_float(ptx::load_shared_16(ptx::shared_address(shared) + 8).x);
}

__global__ void write_past_device(float* out) {
  out[64 + threadIdx.x] = 1;
}

void expect(void (*kernel)(float*), const char* complaint) {
  expect_complaint(
      [&] {
        Array<float> out(64);
        ptx::launch(kernel, 1, 64, 256, nullptr, out.data());
        for (int i = 0; i < 64; ++i) {
          if (out[i] == out[i]) continue;
          std::fputs("poison", stderr);
          break;
        }
      },
      complaint);
}

void test_mistakes() {
  expect(forget_to_wait, "poison");
  expect(forget_a_barrier, "poison");
  expect(diverge, "lanes of a warp diverge");
  expect(part_at_a_barrier, "every thread waits");
  expect(end_before_mma, "mma.tf32: no longer there are lanes 3");
  expect(read_past_shared, "ld.shared: 4 bytes at offset 256 of 256 bytes");
  expect(misalign, "is not aligned to 16 bytes");
  expect(write_past_device, "outside of memory");
}

}  // namespace
}  // namespace jax_na::cuda

int main() {
  using namespace jax_na::cuda;
  using jax_na::emulation::report_checks;
  test_ldmatrix();
  test_mma(multiply_16_bit<__nv_bfloat16>, 16, "mma of bfloat16");
  test_mma(multiply_16_bit<__half>, 16, "mma of float16");
  test_mma(multiply_tf32, 8, "mma of TF32");
  test_the_rest();
  test_mistakes();
  return report_checks();
}
