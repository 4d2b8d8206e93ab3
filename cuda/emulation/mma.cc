#include <cuda/ptx/mma.h>

#include <cstring>

namespace jax_na::cuda::ptx {
namespace {

// The element that a word holds: one of two, or the one.
template <typename T>
float element_of(uint32_t word, int which) {
  T element;
  element.bits = static_cast<uint16_t>(word >> 16 * which);
  return element;
}
template <>
float element_of<float>(uint32_t word, int) {
  word &= 0xffffe000u;  // the 19 bits of TF32
  float element;
  std::memcpy(&element, &word, sizeof element);
  return element;
}

}  // namespace

// Products are exact in double, and so is nearly their sum; hardware keeps fewer bits of it.
template <typename T>
void multiply_fragments(emulation::Operands operands) {
  constexpr int kPerWord = 4 / sizeof(T);
  constexpr int kDepth = 8 * kPerWord;
  float a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
    const auto* own = static_cast<const Multiplied*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int e = 0; e < kPerWord; ++e) {
        const int k = (4 * half + t) * kPerWord + e;
        a[g][k] = element_of<T>(own->a[2 * half], e);
        a[g + 8][k] = element_of<T>(own->a[2 * half + 1], e);
        b[k][g] = element_of<T>(own->b[half], e);
      }
    }
  }
  for (int lane = 0; lane < emulation::kWarpSize; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
      const auto* own = static_cast<const Multiplied*>(operands[lane]);
      double sum = own->c[i];
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      own->d[i] = static_cast<float>(sum);
    }
  }
}

template void multiply_fragments<__nv_bfloat16>(emulation::Operands);
template void multiply_fragments<__half>(emulation::Operands);
template void multiply_fragments<float>(emulation::Operands);

}  // namespace jax_na::cuda::ptx
