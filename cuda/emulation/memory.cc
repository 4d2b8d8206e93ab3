#include "cuda/emulation/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <utility>

#include "cuda/emulation/fail.h"

namespace jax_na::emulation {
namespace {

// What was mapped for a piece of memory: its beginning and its size.
std::map<void*, std::pair<void*, size_t>>& mappings() {
  static std::map<void*, std::pair<void*, size_t>> all;
  return all;
}

size_t round_up(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

}  // namespace

void poison(void* to, size_t bytes) {
  auto* at = static_cast<unsigned char*>(to);
  for (; bytes > 0; at += sizeof kPoison) {
    const size_t part = bytes < sizeof kPoison ? bytes : sizeof kPoison;
    std::memcpy(at, &kPoison, part);
    bytes -= part;
  }
}

void* allocate_guarded(size_t bytes, size_t alignment) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t used = round_up(bytes, alignment), body = round_up(used, page);
  const size_t all = body + 2 * page;
  void* mapped = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) fail("no memory for %zu bytes", bytes);
  auto* first = static_cast<char*>(mapped) + page;
  if (body > 0 && mprotect(first, body, PROT_READ | PROT_WRITE) != 0)
    fail("no memory for %zu bytes", bytes);
  char* memory = first + (body - used);
  poison(memory, used);
  mappings()[memory] = {mapped, all};
  return memory;
}

void free_guarded(void* memory) {
  if (memory == nullptr) return;
  auto found = mappings().find(memory);
  if (found == mappings().end()) fail("memory is freed that was not allocated");
  munmap(found->second.first, found->second.second);
  mappings().erase(found);
}

}  // namespace jax_na::emulation
