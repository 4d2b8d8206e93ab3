#include "cuda/emulation/fail.h"

#include <signal.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>

#include "cuda/emulation/block.h"

namespace jax_na::emulation {
namespace {

void on_fault(int, siginfo_t* info, void*) {
  fail("an access to %p, outside of memory", info->si_addr);
}

}  // namespace

void fail(const char* format, ...) {
  std::fflush(stdout);
  std::fputs("emulation: ", stderr);
  va_list values;
  va_start(values, format);
  std::vfprintf(stderr, format, values);
  va_end(values);
  if (running())
    std::fprintf(stderr, " (block %u %u %u, thread %u %u %u)", blockIdx.x, blockIdx.y, blockIdx.z,
                 threadIdx.x, threadIdx.y, threadIdx.z);
  std::fputc('\n', stderr);
  _exit(1);
}

void report_faults() {
  static char stack[64 << 10];
  stack_t own{};
  own.ss_sp = stack;
  own.ss_size = sizeof stack;
  sigaltstack(&own, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace jax_na::emulation
