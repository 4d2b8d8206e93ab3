// cp.async: copies from global to shared memory that bypass the registers.
#pragma once

#include <cstdint>

namespace jax_na::cuda::ptx {

// Copies 16 bytes, or writes 16 zeros without reading where `valid` is false. Both addresses are
// aligned to 16 bytes.
__device__ __forceinline__ void cp_async(uint32_t to, const void* from, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(from), "r"(bytes)
               : "memory");
}

// The same where it is `wanted`, without a branch.
__device__ __forceinline__ void cp_async_if(bool wanted, uint32_t to, const void* from,
                                            bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.u32 wanted, %3, 0;\n"
      "@wanted cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
      "}\n"
      :
      : "r"(to), "l"(from), "r"(bytes), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}

// Copies 16 bytes where `bits` are not all 0, and writes zeros elsewhere: a test of some bits of a
// word, which comes down to three instructions where C++ makes a bool of them, stays one.
__device__ __forceinline__ void cp_async_where(uint32_t bits, uint32_t to, const void* from) {
  asm volatile(
      "{\n"
      ".reg .pred reads;\n"
      ".reg .u32 bytes;\n"
      "setp.ne.u32 reads, %2, 0;\n"
      "selp.u32 bytes, 16, 0, reads;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, bytes;\n"
      "}\n"
      :
      : "r"(to), "l"(from), "r"(bits)
      : "memory");
}

// The same where it is `wanted`, without a branch.
__device__ __forceinline__ void cp_async_where(uint32_t bits, uint32_t to, const void* from,
                                               bool wanted) {
  asm volatile(
      "{\n"
      ".reg .pred wanted, reads;\n"
      ".reg .u32 bytes;\n"
      "setp.ne.u32 wanted, %3, 0;\n"
      "setp.ne.u32 reads, %2, 0;\n"
      "selp.u32 bytes, 16, 0, reads;\n"
      "@wanted cp.async.cg.shared.global [%0], [%1], 16, bytes;\n"
      "}\n"
      :
      : "r"(to), "l"(from), "r"(bits), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}

// The same for 4 bytes.
__device__ __forceinline__ void cp_async_4(uint32_t to, const void* from, bool valid) {
  int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(to), "l"(from), "r"(bytes)
               : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace jax_na::cuda::ptx
