// The element types of tensors.
#pragma once

#include <cstdint>

namespace jax_na {

enum class Stored : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };
constexpr int kStoredTypes = 4;

}  // namespace jax_na
