#include "cuda/emulation/registers.h"

#include <algorithm>
#include <vector>

#include "cuda/emulation/block.h"
#include "cuda/emulation/fail.h"

namespace jax_na::emulation {
namespace {

constexpr int kRegisters = 65536;  // of a multiprocessor
constexpr int kUnit = 8;
constexpr int kFewest = 24, kMost = 256;

int unused;             // registers for each lane of some warp
std::vector<int> held;  // by a lane of each warp

void check(const char* what, int count) {
  if (count < kFewest || count > kMost || count % kUnit != 0)
    fail("%s: %d is not a multiple of 8 from 24 to 256", what, count);
}

}  // namespace

void begin_registers(int threads, int resident) {
  const int warps = (threads + kWarpSize - 1) / kWarpSize;
  const int each = std::min(kRegisters / (resident * warps * kWarpSize) / kUnit * kUnit, kMost);
  held.assign(warps, each);
  unused = 0;
}

void give_up_registers(int count) {
  check("setmaxnreg.dec", count);
  int& own = held[this_warp_number()];
  if (this_thread() % kWarpSize == 0) {
    if (count > own) fail("setmaxnreg.dec: %d are more than the %d there are", count, own);
    unused += own - count;
    own = count;
    wake(&unused);
  }
  meet_whole_warp("setmaxnreg.dec", nullptr, [](Operands) {});
}

void take_registers(int count) {
  check("setmaxnreg.inc", count);
  int& own = held[this_warp_number()];
  if (this_thread() % kWarpSize == 0) {
    if (count < own) fail("setmaxnreg.inc: %d are fewer than the %d there are", count, own);
    while (unused < count - own) sleep_on(&unused, "registers,", count - own);
    unused -= count - own;
    own = count;
  }
  meet_whole_warp("setmaxnreg.inc", nullptr, [](Operands) {});
}

}  // namespace jax_na::emulation
