// float16.
#pragma once

#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;  // a sign, 5 of the exponent, 10 of the mantissa

  __half() = default;
  // To the nearest, ties to even.
  explicit __half(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    x = std::fabs(x);
    if (x != x) {
      bits = 0x7fff;
    } else if (x >= 65520.f) {  // rounds to more than the largest
      bits = sign | 0x7c00;
    } else {
      int exponent = -13;  // x < 2^exponent; the least for numbers without a leading one
      if (x >= 0x1p-14f) std::frexp(x, &exponent);
      // In units of the last place; a carry moves on into the exponent by itself. nearbyint rounds
      // ties to even.
      const int units = static_cast<int>(std::nearbyint(std::ldexp(x, 11 - exponent)));
      bits = sign | static_cast<uint16_t>(((exponent + 13) << 10) + units);
    }
  }
  operator float() const {
    const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 0) {  // in units of 2^-24
      const float x = static_cast<float>(mantissa) * 0x1p-24f;
      return bits >> 15 ? -x : x;
    }
    const uint32_t wide =
        uint32_t{bits} >> 15 << 31 | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
  }
};

struct __half2 {
  __half x, y;
};

inline __half __float2half_rn(float x) {
  return __half(x);
}
inline float __half2float(__half x) {
  return x;
}
inline __half2 __floats2half2_rn(float x, float y) {
  return {__half(x), __half(y)};
}
inline float2 __half22float2(__half2 both) {
  return {both.x, both.y};
}
