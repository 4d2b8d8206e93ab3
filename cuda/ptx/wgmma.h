// wgmma: products of a warpgroup's 64 rows, with operands in shared memory, accumulated in float32.
//
// Accumulator of 64 x N, with g = lane / 4 and t = lane % 4: d[4n], d[4n + 1] at row 16 * warp + g,
// columns 8n + 2t and 8n + 2t + 1; d[4n + 2], d[4n + 3] at row g + 8. Products run on after they
// are issued: what they read and write is not to be touched until a wait.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace jax_na::cuda::ptx {

// An operand in shared memory as rows of 128 bytes, or of 64, that are swizzled by their address,
// in groups of eight rows. Rows are of the operand's 64 (32) inner elements; further inner elements
// are in a further panel of rows, `panel_bytes` on, which matters to transposed operands alone.
template <int kRowBytes = 128>
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t address, uint32_t panel_bytes) {
  static_assert(kRowBytes == 128 || kRowBytes == 64, "a swizzle that is used");
  constexpr uint64_t kSwizzle = uint64_t{kRowBytes == 128 ? 1 : 2} << 62;
  constexpr uint64_t kEightRows = uint64_t{8 * kRowBytes >> 4} << 32;
  return kSwizzle | kEightRows | (uint64_t{panel_bytes >> 4} << 16) | ((address & 0x3ffff) >> 4);
}
// The operand `bytes` further on, with bytes a multiple of 16.
__device__ __forceinline__ uint64_t wgmma_advance(uint64_t operand, int bytes) {
  return operand + (bytes >> 4);
}

// Before the first product, and whenever registers of one were written by something else.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `kPending` groups are under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from reading results before a wait, or changing them after a product's issue.
template <int kBegin, int kEnd, int kCount>
__device__ __forceinline__ void keep_here(float (&values)[kCount]) {
#pragma unroll
  for (int i = kBegin; i < kEnd; ++i) asm volatile("" : "+f"(values[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void keep_here(float (&values)[kCount]) {
  keep_here<0, kCount>(values);
}

// clang-format off
#define JAX_NA_D0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define JAX_NA_D8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define JAX_NA_D16 ", %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define JAX_NA_D16_HALF ", %16, %17, %18, %19, %20, %21, %22, %23"
#define JAX_NA_D32 ", %32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47"
#define JAX_NA_D32_HALF ", %32, %33, %34, %35, %36, %37, %38, %39"
#define JAX_NA_D48 ", %48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define JAX_NA_D64 ", %64, %65, %66, %67, %68, %69, %70, %71, " \
  "%72, %73, %74, %75, %76, %77, %78, %79"
#define JAX_NA_D80 ", %80, %81, %82, %83, %84, %85, %86, %87, " \
  "%88, %89, %90, %91, %92, %93, %94, %95"
#define JAX_NA_D96 ", %96, %97, %98, %99, %100, %101, %102, %103, " \
  "%104, %105, %106, %107, %108, %109, %110, %111"
#define JAX_NA_D112 ", %112, %113, %114, %115, %116, %117, %118, %119, " \
  "%120, %121, %122, %123, %124, %125, %126, %127"
#define JAX_NA_INOUT4(b) "+f"(d[b]), "+f"(d[b + 1]), "+f"(d[b + 2]), "+f"(d[b + 3])
#define JAX_NA_INOUT16(b) \
  JAX_NA_INOUT4(b), JAX_NA_INOUT4(b + 4), JAX_NA_INOUT4(b + 8), JAX_NA_INOUT4(b + 12)

#define JAX_NA_D_16 JAX_NA_D0
#define JAX_NA_D_32 JAX_NA_D0 JAX_NA_D8
#define JAX_NA_D_48 JAX_NA_D_32 JAX_NA_D16_HALF
#define JAX_NA_D_64 JAX_NA_D_32 JAX_NA_D16
#define JAX_NA_D_80 JAX_NA_D_32 JAX_NA_D16 JAX_NA_D32_HALF
#define JAX_NA_D_96 JAX_NA_D_32 JAX_NA_D16 JAX_NA_D32
#define JAX_NA_D_128 JAX_NA_D_32 JAX_NA_D16 JAX_NA_D32 JAX_NA_D48
#define JAX_NA_D_192 JAX_NA_D_32 JAX_NA_D16 JAX_NA_D32 JAX_NA_D48 JAX_NA_D64 JAX_NA_D80
#define JAX_NA_D_256 JAX_NA_D_32 JAX_NA_D16 JAX_NA_D32 JAX_NA_D48 JAX_NA_D64 JAX_NA_D80 JAX_NA_D96 JAX_NA_D112
#define JAX_NA_INOUT_16 JAX_NA_INOUT4(0), JAX_NA_INOUT4(4)
#define JAX_NA_INOUT_32 \
  JAX_NA_INOUT16(0)
#define JAX_NA_INOUT_48 \
  JAX_NA_INOUT16(0), JAX_NA_INOUT4(16), JAX_NA_INOUT4(20)
#define JAX_NA_INOUT_64 \
  JAX_NA_INOUT16(0), JAX_NA_INOUT16(16)
#define JAX_NA_INOUT_80 \
  JAX_NA_INOUT16(0), JAX_NA_INOUT16(16), JAX_NA_INOUT4(32), JAX_NA_INOUT4(36)
#define JAX_NA_INOUT_96 \
  JAX_NA_INOUT16(0), JAX_NA_INOUT16(16), JAX_NA_INOUT16(32)
#define JAX_NA_INOUT_128 \
  JAX_NA_INOUT16(0), JAX_NA_INOUT16(16), JAX_NA_INOUT16(32), JAX_NA_INOUT16(48)
#define JAX_NA_INOUT_192 \
  JAX_NA_INOUT16(0), JAX_NA_INOUT16(16), JAX_NA_INOUT16(32), JAX_NA_INOUT16(48), \
  JAX_NA_INOUT16(64), JAX_NA_INOUT16(80)
#define JAX_NA_INOUT_256 \
  JAX_NA_INOUT16(0), JAX_NA_INOUT16(16), JAX_NA_INOUT16(32), JAX_NA_INOUT16(48), \
  JAX_NA_INOUT16(64), JAX_NA_INOUT16(80), JAX_NA_INOUT16(96), JAX_NA_INOUT16(112)
// clang-format on

// The last operands are numbered after the accumulator's. `by_depth` is 1 where the 16 inner
// elements are rows in shared memory, of both operands.
#define JAX_NA_WGMMA_SHARED(n, type, by_depth, a_at, b_at, add_at)                      \
  asm volatile(                                                                         \
      "{\n"                                                                             \
      ".reg .pred add;\n"                                                               \
      "setp.ne.b32 add, " add_at                                                        \
      ", 0;\n"                                                                          \
      "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" JAX_NA_D_##n \
      "}, " a_at ", " b_at ", add, 1, 1, " by_depth                                     \
      ";\n"                                                                             \
      "}\n"                                                                             \
      : JAX_NA_INOUT_##n                                                                \
      : "l"(a), "l"(b), "r"(add))
#define JAX_NA_WGMMA_REGISTERS(n, type, a0_at, a1_at, a2_at, a3_at, b_at, add_at)       \
  asm volatile(                                                                         \
      "{\n"                                                                             \
      ".reg .pred add;\n"                                                               \
      "setp.ne.b32 add, " add_at                                                        \
      ", 0;\n"                                                                          \
      "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" JAX_NA_D_##n \
      "}, "                                                                             \
      "{" a0_at ", " a1_at ", " a2_at ", " a3_at "}, " b_at                             \
      ", add, 1, 1, 1;\n"                                                               \
      "}\n"                                                                             \
      : JAX_NA_INOUT_##n                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
#define JAX_NA_WGMMA_OF(T, macro, n, ...)  \
  if constexpr (std::is_same_v<T, __half>) \
    macro(n, "f16", __VA_ARGS__);          \
  else                                     \
    macro(n, "bf16", __VA_ARGS__)

// d = a b^T (+ d where `add` is not 0), for a 64 rows x 16 inner elements and b kColumns rows x 16
// inner elements, both in shared memory.
template <typename T, int kColumns>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], uint64_t a, uint64_t b, int add) {
  if constexpr (kColumns == 32) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 32, "0, 0", "%16", "%17", "%18");
  } else if constexpr (kColumns == 48) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 48, "0, 0", "%24", "%25", "%26");
  } else if constexpr (kColumns == 64) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 64, "0, 0", "%32", "%33", "%34");
  } else if constexpr (kColumns == 80) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 80, "0, 0", "%40", "%41", "%42");
  } else if constexpr (kColumns == 96) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 96, "0, 0", "%48", "%49", "%50");
  } else if constexpr (kColumns == 128) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 128, "0, 0", "%64", "%65", "%66");
  } else {
    static_assert(kColumns == 32, "no such product");
  }
}

// d = a b (+ d where `add` is not 0), for a 64 rows x 16 inner elements and b 16 inner elements x
// kColumns, both in shared memory.
template <typename T, int kColumns>
__device__ __forceinline__ void wgmma_by_rows(float (&d)[kColumns / 2], uint64_t a, uint64_t b,
                                              int add) {
  if constexpr (kColumns == 32) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 32, "0, 1", "%16", "%17", "%18");
  } else if constexpr (kColumns == 64) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 64, "0, 1", "%32", "%33", "%34");
  } else if constexpr (kColumns == 96) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 96, "0, 1", "%48", "%49", "%50");
  } else if constexpr (kColumns == 128) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 128, "0, 1", "%64", "%65", "%66");
  } else {
    static_assert(kColumns == 64, "no such product");
  }
}

// d = a^T b (+ d where `add` is not 0), for a 16 inner elements x 64 rows and b 16 inner elements x
// kColumns, both in shared memory.
template <typename T, int kColumns>
__device__ __forceinline__ void wgmma_by_depth(float (&d)[kColumns / 2], uint64_t a, uint64_t b,
                                               int add) {
  if constexpr (kColumns == 16) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 16, "1, 1", "%8", "%9", "%10");
  } else if constexpr (kColumns == 32) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 32, "1, 1", "%16", "%17", "%18");
  } else if constexpr (kColumns == 64) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_SHARED, 64, "1, 1", "%32", "%33", "%34");
  } else {
    static_assert(kColumns == 32, "no such product");
  }
}

// d = a b (+ d where `add` is not 0), for a 64 rows x 16 inner elements in registers, as two
// 8-column tiles of an accumulator packed in pairs, and b 16 rows x kColumns in shared memory.
template <typename T, int kColumns>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b,
                                      int add) {
  if constexpr (kColumns == 32) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_REGISTERS, 32, "%16", "%17", "%18", "%19", "%20", "%21");
  } else if constexpr (kColumns == 64) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_REGISTERS, 64, "%32", "%33", "%34", "%35", "%36", "%37");
  } else if constexpr (kColumns == 96) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_REGISTERS, 96, "%48", "%49", "%50", "%51", "%52", "%53");
  } else if constexpr (kColumns == 128) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_REGISTERS, 128, "%64", "%65", "%66", "%67", "%68", "%69");
  } else if constexpr (kColumns == 192) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_REGISTERS, 192, "%96", "%97", "%98", "%99", "%100", "%101");
  } else if constexpr (kColumns == 256) {
    JAX_NA_WGMMA_OF(T, JAX_NA_WGMMA_REGISTERS, 256, "%128", "%129", "%130", "%131", "%132", "%133");
  } else {
    static_assert(kColumns == 32, "no such product");
  }
}

#undef JAX_NA_D0
#undef JAX_NA_D8
#undef JAX_NA_D16
#undef JAX_NA_D16_HALF
#undef JAX_NA_D32
#undef JAX_NA_D32_HALF
#undef JAX_NA_D48
#undef JAX_NA_D64
#undef JAX_NA_D80
#undef JAX_NA_D96
#undef JAX_NA_D112
#undef JAX_NA_INOUT4
#undef JAX_NA_INOUT16
#undef JAX_NA_D_16
#undef JAX_NA_D_32
#undef JAX_NA_D_48
#undef JAX_NA_D_64
#undef JAX_NA_D_80
#undef JAX_NA_D_96
#undef JAX_NA_D_128
#undef JAX_NA_D_192
#undef JAX_NA_D_256
#undef JAX_NA_INOUT_16
#undef JAX_NA_INOUT_32
#undef JAX_NA_INOUT_48
#undef JAX_NA_INOUT_64
#undef JAX_NA_INOUT_80
#undef JAX_NA_INOUT_96
#undef JAX_NA_INOUT_128
#undef JAX_NA_INOUT_192
#undef JAX_NA_INOUT_256
#undef JAX_NA_WGMMA_SHARED
#undef JAX_NA_WGMMA_REGISTERS
#undef JAX_NA_WGMMA_OF

}  // namespace jax_na::cuda::ptx
