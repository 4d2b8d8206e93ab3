// Chooses, once, the kernels of the best instruction set that this processor has.
#include "cpu/kernels.h"

namespace jax_na {

namespace baseline {
const Kernels& table();
}
#if defined(__x86_64__)
namespace avx2 {
const Kernels& table();
}
#endif

const Kernels& kernels() {
#if defined(__x86_64__)
  static const bool kAvx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (kAvx2) return avx2::table();
#endif
  return baseline::table();
}

}  // namespace jax_na
