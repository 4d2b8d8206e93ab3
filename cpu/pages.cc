#include "cpu/pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace jax_na {

#if defined(__linux__) && defined(MADV_HUGEPAGE)

void prefer_huge_pages(void* data, int64_t bytes) {
  // Below, the memory comes from a heap that keeps its pages, and the hint would outlive the call.
  constexpr int64_t kLeast = int64_t{4} << 20;
  if (bytes < kLeast) return;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin,
          MADV_HUGEPAGE);  // may fail: small pages then
}

#else

void prefer_huge_pages(void*, int64_t) {}

#endif

}  // namespace jax_na
