// wgmma: products of warpgroups that run on after their issue.
//
// Each warp computes its own 16 rows, at once or as late as its waits allow, by chance.
#pragma once

#include <cstdint>

namespace jax_na::emulation {

// Begins a block; ends it, where nothing may be under way.
void begin_wgmma(int threads);
void end_wgmma();

// One lane's part of the product d = a b, or d += a b: a of 64 rows and b of `columns` columns, 16
// numbers deep.
struct Wgmma {
  float* d;            // columns / 2
  int columns;         // a multiple of 8, at most 256
  const uint32_t* a;   // 4 words; null where it is in shared memory
  uint64_t a_operand;  // descriptors
  uint64_t b_operand;
  bool a_by_depth, b_by_depth;  // rows in shared memory are of the 16: "MN-major"
  bool adds;
  float (*number)(uint16_t bits);
};

// Of the calling warp, together.
void issue_wgmma(const Wgmma& product);
void fence_wgmma();
void commit_wgmma();
void wait_wgmma(int pending);

}  // namespace jax_na::emulation
