#include "cuda/emulation/async_copies.h"

#include <cstring>
#include <deque>
#include <vector>

#include "cuda/emulation/block.h"
#include "cuda/emulation/fail.h"
#include "cuda/emulation/memory.h"
#include "cuda/emulation/shared_memory.h"

namespace jax_na::emulation {
namespace {

struct Copy {
  void* to;
  const void* from;  // null: zeros
  uint32_t bytes;
};
using Group = std::vector<Copy>;

struct Copies {
  Group open;
  std::deque<Group> committed;
};
std::vector<Copies> threads_copies;

}  // namespace

void begin_async_copies(int threads) {
  threads_copies.assign(threads, Copies());
}

void start_async_copy(uint32_t to, const void* from, uint32_t bytes, bool valid) {
  void* target = shared_bytes(to, bytes, "cp.async");
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0)
    fail("cp.async: the source %p is not aligned to %u bytes", from, bytes);
  poison(target, bytes);
  threads_copies[this_thread()].open.push_back({target, valid ? from : nullptr, bytes});
}

void commit_async_copies() {
  Copies& own = threads_copies[this_thread()];
  own.committed.push_back(std::move(own.open));
  own.open.clear();
}

void wait_async_copies(int pending) {
  auto& groups = threads_copies[this_thread()].committed;
  while (static_cast<int>(groups.size()) > pending) {
    for (const Copy& copy : groups.front()) {
      if (copy.from != nullptr)
        std::memcpy(copy.to, copy.from, copy.bytes);
      else
        std::memset(copy.to, 0, copy.bytes);
    }
    groups.pop_front();
  }
}

}  // namespace jax_na::emulation
