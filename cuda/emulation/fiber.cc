// A checking longjmp takes every jump to another stack for an error.
#undef _FORTIFY_SOURCE

#include "cuda/emulation/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace jax_na::emulation {
namespace {

constexpr size_t kStackBytes = 128 << 10;

// What a stack begins with, handed over by `start`, where contexts take no pointers.
struct Birth {
  void (*entry)();
  jmp_buf* at;
  ucontext_t parent;
};
Birth* birth;

void begin() {
  auto entry = birth->entry;
  if (_setjmp(*birth->at) == 0) setcontext(&birth->parent);
  entry();
}

}  // namespace

// The C library's contexts put a fiber on its stack; from then on it is switched by longjmp, which
// unlike them calls no kernel.
void Fiber::start(void (*entry)()) {
  const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) {
    std::perror("emulation: a stack");
    std::abort();
  }
  Birth own{entry, &at_, {}};
  birth = &own;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = static_cast<char*>(memory) + guard;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, begin, 0);
  swapcontext(&own.parent, &context);
}

void Fiber::resume_from(Fiber& from) {
  if (_setjmp(from.at_) == 0) _longjmp(at_, 1);
}

}  // namespace jax_na::emulation
