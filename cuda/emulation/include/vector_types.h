// CUDA's small vectors.
#pragma once

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;

  constexpr dim3(unsigned x_of = 1, unsigned y_of = 1, unsigned z_of = 1)
      : x(x_of), y(y_of), z(z_of) {}
};
