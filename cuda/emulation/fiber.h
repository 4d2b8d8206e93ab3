// Coroutines, each on a stack of its own: the threads of an emulated block.
#pragma once

#include <setjmp.h>

namespace jax_na::emulation {

class Fiber {
 public:
  // One that stands for the caller's own stack, to switch back to.
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Gives it a stack and `entry`, which never returns and first runs when it is switched to.
  void start(void (*entry)());
  // Leaves the running fiber, `from`, for this one.
  void resume_from(Fiber& from);

 private:
  jmp_buf at_;
};

}  // namespace jax_na::emulation
