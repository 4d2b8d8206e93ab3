#include "cuda/emulation/shared_memory.h"

#include "cuda/emulation/fail.h"
#include "cuda/emulation/memory.h"

namespace jax_na::emulation {
namespace {

constexpr size_t kAlignment = 128;
// Not zero, so that a kernel cannot forget the base, and of no greater alignment than promised.
constexpr uint32_t kBase = 1024 + kAlignment;

unsigned char* memory = nullptr;
size_t capacity = 0;  // bytes

}  // namespace

void begin_shared_memory(size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (memory == nullptr || bytes != capacity) {
    free_guarded(memory);
    memory = static_cast<unsigned char*>(allocate_guarded(bytes, kAlignment));
    capacity = bytes;
  }
  poison(memory, capacity);
}

unsigned char* shared_memory() {
  return memory;
}

uint32_t shared_address_of(const void* pointer) {
  const auto* at = static_cast<const unsigned char*>(pointer);
  if (at < memory || at > memory + capacity)
    fail("a pointer that is not into dynamic shared memory is used as a shared address");
  return kBase + static_cast<uint32_t>(at - memory);
}

void* shared_bytes(uint32_t address, uint32_t bytes, const char* what) {
  if (address < kBase || address - kBase + uint64_t{bytes} > capacity)
    fail("%s: %u bytes at offset %lld of %zu bytes of shared memory", what, bytes,
         static_cast<long long>(address) - kBase, capacity);
  if (address % bytes != 0)
    fail("%s: the address, at offset %u of shared memory, is not aligned to %u bytes", what,
         address - kBase, bytes);
  return memory + (address - kBase);
}

}  // namespace jax_na::emulation
