#include "cuda/emulation/launch.h"

#include <map>

namespace jax_na::emulation {
namespace {

std::map<const void*, Launcher>& launchers() {
  static std::map<const void*, Launcher> all;
  return all;
}

}  // namespace

void register_kernel(const void* kernel, Launcher launcher) {
  launchers()[kernel] = std::move(launcher);
}

bool launch_registered(const void* kernel, dim3 grid, dim3 block, void** parameters,
                       size_t shared_bytes) {
  const auto found = launchers().find(kernel);
  if (found == launchers().end()) return false;
  found->second(grid, block, shared_bytes, parameters);
  return true;
}

}  // namespace jax_na::emulation
