// What the handlers of CUDA devices share: how errors of launches come back to XLA.
#pragma once

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace jax_na::cuda {

// Runs `call`, which returns an empty text or what is wrong. An exception must not cross the C
// boundary to XLA.
template <typename Call>
xla::ffi::Error guarded(Call call) {
  using xla::ffi::Error;
  try {
    const std::string wrong = call();
    return wrong.empty() ? Error::Success() : Error::Internal("jax_na: " + wrong);
  } catch (const std::exception& e) {
    return Error::Internal(std::string("jax_na: ") + e.what());
  }
}

// XLA aligns what it allocates; the kernels copy 16 bytes at a time.
inline std::string check_alignment(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0)
      return "a tensor is not aligned to 16 bytes";
  return "";
}

}  // namespace jax_na::cuda
