#include "cuda/emulation/block.h"

#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "cuda/emulation/async_copies.h"
#include "cuda/emulation/bulk_copies.h"
#include "cuda/emulation/fail.h"
#include "cuda/emulation/fiber.h"
#include "cuda/emulation/mbarrier.h"
#include "cuda/emulation/named_barrier.h"
#include "cuda/emulation/registers.h"
#include "cuda/emulation/shared_memory.h"
#include "cuda/emulation/wgmma.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace jax_na::emulation {
namespace {

struct Warp {
  uint32_t ready = 0;    // lanes that can go on
  uint32_t here = 0;     // lanes at an operation of the warp
  uint32_t barrier = 0;  // lanes at the block's barrier
  uint32_t living = 0;
  int turn = 0;  // the lane to go on first
  bool descending = false;
  const char* name = nullptr;  // of the operation that `here` are at
  void (*perform)(Operands) = nullptr;
  void* operands[kWarpSize] = {};
};

struct Sleeper {
  int thread;
  const void* key;
  const char* what;
  int number;
};

struct Block {
  std::deque<Fiber> fibers;    // of the largest block so far
  std::vector<uint3> indices;  // of its threads
  std::vector<Sleeper> sleepers;
  std::vector<Warp> warps;
  Fiber host;
  const std::function<void()>* body = nullptr;
  int thread = -1;  // the one that runs
};

Block block;
uint64_t random_state = 1;

// The next number of Steele, Lea and Flood's SplitMix (2014): a draw at every switch has to be
// cheap.
uint64_t random_bits() {
  uint64_t z = random_state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

uint32_t lane_bit() {
  return 1u << block.thread % kWarpSize;
}

Warp& this_warp() {
  return block.warps[block.thread / kWarpSize];
}

void draw_turn(Warp& warp) {
  const uint64_t bits = random_bits();
  warp.turn = bits % kWarpSize;
  warp.descending = bits >> 32 & 1;
}

int next_lane(const Warp& warp) {
  if (warp.descending) {  // the highest ready lane up to `turn`, else of all
    const uint32_t below = warp.ready & (~0u >> (kWarpSize - 1 - warp.turn));
    return kWarpSize - 1 - __builtin_clz(below != 0 ? below : warp.ready);
  }
  const uint32_t above = warp.ready & (~0u << warp.turn);
  return __builtin_ctz(above != 0 ? above : warp.ready);
}

// Goes on with thread `next`, or with the host where it is -1.
void switch_to(int next) {
  const int own = block.thread;
  if (next == own) return;
  Fiber& from = own < 0 ? block.host : block.fibers[own];
  block.thread = next;
  if (next >= 0) threadIdx = block.indices[next];
  (next < 0 ? block.host : block.fibers[next]).resume_from(from);
}

std::string lanes(uint32_t mask) {
  if (mask == ~0u) return " 0 to 31";
  std::string text;
  for (int lane = 0; lane < kWarpSize; ++lane)
    if (mask >> lane & 1) text += " " + std::to_string(lane);
  return text;
}

[[noreturn]] void fail_deadlock() {
  std::string text;
  for (size_t w = 0; w < block.warps.size(); ++w) {
    const Warp& warp = block.warps[w];
    if (warp.living == 0) continue;
    text += "\n  warp " + std::to_string(w) + ":";
    if (warp.here != 0) text += " at " + std::string(warp.name) + " lanes" + lanes(warp.here) + ";";
    if (warp.barrier != 0) text += " at __syncthreads lanes" + lanes(warp.barrier) + ";";
    if (warp.living != ~0u) text += " ended lanes" + lanes(~warp.living);
    std::map<std::string, uint32_t> waiting;
    for (const Sleeper& sleeper : block.sleepers)
      if (sleeper.thread / kWarpSize == static_cast<int>(w))
        waiting[std::string(sleeper.what) + " " + std::to_string(sleeper.number)] |=
            1u << sleeper.thread % kWarpSize;
    for (const auto& [what, mask] : waiting)
      text += " waiting for " + what + " lanes" + lanes(mask) + ";";
  }
  fail("every thread waits, for one that is elsewhere or has ended:%s\n ", text.c_str());
}

// Lets the threads at the block's barrier go on, where those are all that live.
bool release_block() {
  for (const Warp& warp : block.warps)
    if (warp.barrier != warp.living) return false;
  for (Warp& warp : block.warps) {
    warp.ready = warp.barrier;
    warp.barrier = 0;
    draw_turn(warp);
  }
  return true;
}

// Some warp that can go on, or -1.
int some_ready_warp() {
  const size_t count = block.warps.size();
  const size_t first = random_bits() % count;
  for (size_t i = 0; i < count; ++i) {
    const size_t w = (first + i) % count;
    if (block.warps[w].ready != 0) return static_cast<int>(w);
  }
  return -1;
}

// Leaves the running thread, which waits, has ended, or was the last at an operation of its warp.
// Its warp mostly goes on, as warps are in no hurry to be fair.
void switch_away() {
  int w = block.thread / kWarpSize;
  if (draw_below(4) == 0) advance_bulk_copies();
  if (block.warps[w].ready == 0 || draw_below(16) == 0) w = some_ready_warp();
  while (w < 0) {
    bool living = false;
    for (const Warp& warp : block.warps) living = living || warp.living != 0;
    if (!living) return switch_to(-1);
    if (!advance_bulk_copies() && !release_block()) fail_deadlock();
    w = some_ready_warp();
  }
  switch_to(w * kWarpSize + next_lane(block.warps[w]));
}

void complete(Warp& warp) {
  warp.perform(warp.operands);
  warp.ready |= warp.here;
  warp.here = 0;
  std::memset(warp.operands, 0, sizeof warp.operands);
  draw_turn(warp);
}

// The life of a fiber: one thread of every block.
void live() {
  for (;;) {
    (*block.body)();
    end_bulk_copies_of_thread();
    Warp& warp = this_warp();
    warp.ready &= ~lane_bit();
    warp.living &= ~lane_bit();
    if (warp.here != 0 && warp.here == warp.living) complete(warp);
    switch_away();
  }
}

void run_block(int threads, size_t shared_bytes, int resident) {
  begin_shared_memory(shared_bytes);
  begin_async_copies(threads);
  begin_bulk_copies(threads);
  begin_mbarriers();
  begin_named_barriers();
  begin_registers(threads, resident);
  begin_wgmma(threads);
  block.warps.assign((threads + kWarpSize - 1) / kWarpSize, Warp());
  for (int thread = 0; thread < threads; ++thread)
    block.warps[thread / kWarpSize].ready |= 1u << thread % kWarpSize;
  for (Warp& warp : block.warps) {
    warp.living = warp.ready;
    draw_turn(warp);
  }
  const int w = some_ready_warp();
  switch_to(w * kWarpSize + next_lane(block.warps[w]));
  end_bulk_copies();
  end_wgmma();
}

}  // namespace

bool running() {
  return block.thread >= 0;
}

int this_thread() {
  return block.thread;
}

void set_seed(uint64_t seed) {
  random_state = seed;
}

void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body,
              int resident) {
  if (running()) fail("a kernel launches a kernel");
  report_faults();
  gridDim = grid;
  blockDim = threads;
  block.body = &body;
  const int count = static_cast<int>(threads.x * threads.y * threads.z);
  while (static_cast<int>(block.fibers.size()) < count) block.fibers.emplace_back().start(live);
  block.indices.clear();
  for (unsigned z = 0; z < threads.z; ++z)
    for (unsigned y = 0; y < threads.y; ++y)
      for (unsigned x = 0; x < threads.x; ++x) block.indices.push_back({x, y, z});
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(count, shared_bytes, resident);
      }
}

void meet_warp(const char* name, void* operands, void (*perform)(Operands)) {
  Warp& warp = this_warp();
  const uint32_t own = lane_bit();
  if (warp.here != 0 && warp.name != name && std::strcmp(warp.name, name) != 0)
    fail("lanes of a warp diverge: some are at %s, one is at %s", warp.name, name);
  warp.name = name;
  warp.perform = perform;
  warp.operands[block.thread % kWarpSize] = operands;
  warp.ready &= ~own;
  warp.here |= own;
  if (warp.here == warp.living) complete(warp);
  switch_away();
}

void meet_whole_warp(const char* name, void* operands, void (*perform)(Operands)) {
  const uint32_t living = this_warp().living;
  if (living != ~0u) fail("%s: no longer there are lanes%s", name, lanes(~living).c_str());
  meet_warp(name, operands, perform);
}

void meet_block() {
  Warp& warp = this_warp();
  warp.ready &= ~lane_bit();
  warp.barrier |= lane_bit();
  switch_away();
}

void sleep_on(const void* key, const char* what, int number) {
  this_warp().ready &= ~lane_bit();
  block.sleepers.push_back({block.thread, key, what, number});
  switch_away();
}

void wake(const void* key) {
  auto& sleepers = block.sleepers;
  for (size_t i = 0; i < sleepers.size();) {
    if (sleepers[i].key == key) {
      block.warps[sleepers[i].thread / kWarpSize].ready |= 1u << sleepers[i].thread % kWarpSize;
      sleepers[i] = sleepers.back();
      sleepers.pop_back();
    } else {
      ++i;
    }
  }
}

int draw_below(int end) {
  return static_cast<int>(random_bits() % static_cast<unsigned>(end));
}

}  // namespace jax_na::emulation
