#include "cuda/emulation/mbarrier.h"

#include <map>

#include "cuda/emulation/block.h"
#include "cuda/emulation/fail.h"
#include "cuda/emulation/shared_memory.h"

namespace jax_na::emulation {
namespace {

constexpr int kMostArrivals = (1 << 20) - 1;
constexpr int kMostBytes = (1 << 20) - 1;

struct Mbarrier {
  int arrivals;  // of every phase
  int missing;   // arrivals
  int bytes;     // expected and not copied yet; below 0 where the copies were quicker
  int parity;    // of the present phase
};

std::map<uint32_t, Mbarrier>& mbarriers() {
  static std::map<uint32_t, Mbarrier> all;
  return all;
}

Mbarrier& mbarrier_at(uint32_t address, const char* what) {
  shared_bytes(address, 8, what);
  const auto found = mbarriers().find(address);
  if (found == mbarriers().end())
    fail("%s: there is no mbarrier at the shared address %u", what, address);
  return found->second;
}

void end_phase_if_complete(Mbarrier& barrier) {
  if (barrier.missing > 0 || barrier.bytes != 0) return;
  barrier.missing = barrier.arrivals;
  barrier.parity ^= 1;
  wake(&barrier);
}

}  // namespace

void begin_mbarriers() {
  mbarriers().clear();
}

void init_mbarrier(uint32_t address, int arrivals) {
  shared_bytes(address, 8, "mbarrier.init");
  if (arrivals < 1 || arrivals > kMostArrivals) fail("mbarrier.init: %d arrivals", arrivals);
  if (!mbarriers().insert({address, {arrivals, arrivals, 0, 0}}).second)
    fail("mbarrier.init: there is one at the shared address %u already", address);
}

void arrive_at_mbarrier(uint32_t address, int bytes) {
  Mbarrier& barrier = mbarrier_at(address, "mbarrier.arrive");
  if (barrier.missing == 0)
    fail("mbarrier.arrive: more than %d arrivals in a phase", barrier.arrivals);
  barrier.bytes += bytes;
  if (bytes < 0 || barrier.bytes > kMostBytes) fail("mbarrier.arrive: %d bytes", barrier.bytes);
  --barrier.missing;
  end_phase_if_complete(barrier);
}

void complete_at_mbarrier(uint32_t address, int bytes) {
  Mbarrier& barrier = mbarrier_at(address, "complete_tx");
  barrier.bytes -= bytes;
  if (barrier.missing == 0 && barrier.bytes < 0)
    fail("complete_tx: %d bytes more than the phase expects were copied", -barrier.bytes);
  end_phase_if_complete(barrier);
}

void wait_for_mbarrier(uint32_t address, int parity) {
  if (parity != 0 && parity != 1) fail("mbarrier.try_wait: the parity is %d", parity);
  Mbarrier& barrier = mbarrier_at(address, "mbarrier.try_wait");
  while (barrier.parity == parity) sleep_on(&barrier, "the mbarrier at shared address", address);
}

void check_mbarrier(uint32_t address, const char* what) {
  mbarrier_at(address, what);
}

}  // namespace jax_na::emulation
