#include "cuda/emulation/bulk_copies.h"

#include <cstring>
#include <vector>

#include "cuda/emulation/block.h"
#include "cuda/emulation/fail.h"
#include "cuda/emulation/mbarrier.h"
#include "cuda/emulation/memory.h"
#include "cuda/emulation/shared_memory.h"
#include "cuda/emulation/tensor_map.h"

namespace jax_na::emulation {
namespace {

enum class Kind { kLoad, kStore, kAdd };

struct Copy {
  Kind kind;
  TensorMap map;
  uint32_t shared;
  uint32_t mbarrier;  // of a load
  int at[kTensorMapAxes];
  int thread;
  int group;  // of the thread's stores
};

// What a thread knows of its stores.
struct Stores {
  int groups = 0;   // ended
  int waited = 0;   // groups that were waited for
  int latest = -1;  // group of the latest store
};

std::vector<Copy> under_way;
std::vector<Stores> stores_of_thread;

constexpr uint32_t kChunk = 16;

// Calls `visit(element's address in the tensor, or null, its shared address)` for the box.
template <typename Visit>
void for_each_element(const Copy& copy, Visit visit) {
  const TensorMap& map = copy.map;
  int index[kTensorMapAxes] = {};
  for (uint32_t row = 0;; ++row) {
    for (index[0] = 0; index[0] < map.box[0]; ++index[0]) {
      unsigned char* element = map.data;
      bool inside = true;
      for (int a = 0; a < map.rank; ++a) {
        const int64_t at = copy.at[a] + static_cast<int64_t>(index[a]) * map.steps[a];
        inside = inside && 0 <= at && at < static_cast<int64_t>(map.sizes[a]);
        if (inside) element += at * static_cast<int64_t>(map.strides[a]);
      }
      const uint32_t linear = copy.shared + row * static_cast<uint32_t>(map.row_bytes()) +
                              static_cast<uint32_t>(index[0]) * map.element_bytes;
      visit(inside ? element : nullptr, swizzled(linear, map.swizzle));
    }
    int a = 1;
    for (; a < map.rank; ++a) {
      if (++index[a] < map.box[a]) break;
      index[a] = 0;
    }
    if (a >= map.rank) return;
  }
}

void make(const Copy& copy) {
  const uint32_t bytes = copy.map.element_bytes;
  for_each_element(copy, [&](unsigned char* element, uint32_t address) {
    void* shared = shared_bytes(address, bytes, "TMA");
    if (copy.kind == Kind::kLoad) {
      if (element != nullptr)
        std::memcpy(shared, element, bytes);
      else
        std::memset(shared, 0, bytes);
    } else if (element != nullptr) {
      if (copy.kind == Kind::kStore) {
        std::memcpy(element, shared, bytes);
      } else {
        float sum, more;
        std::memcpy(&sum, element, sizeof sum);
        std::memcpy(&more, shared, sizeof more);
        sum += more;
        std::memcpy(element, &sum, sizeof sum);
      }
    }
  });
  if (copy.kind == Kind::kLoad) complete_at_mbarrier(copy.mbarrier, copy.map.box_bytes());
}

void make_and_forget(size_t which) {
  const Copy copy = under_way[which];
  under_way.erase(under_way.begin() + static_cast<std::ptrdiff_t>(which));
  make(copy);
}

// Checks the box's place in shared memory.
Copy described(Kind kind, const CUtensorMap* map, uint32_t shared, const int (&at)[5]) {
  Copy copy{kind, read_tensor_map(map), shared, 0, {}, this_thread(), 0};
  if (copy.map.rank != kTensorMapAxes) fail("TMA: the tensor map has %d axes", copy.map.rank);
  std::memcpy(copy.at, at, sizeof at);
  const uint32_t alignment = 128;
  if (shared % alignment != 0)
    fail("TMA: the shared address %u is not aligned to %u bytes", shared, alignment);
  const auto bytes = static_cast<uint32_t>(copy.map.box_bytes());
  for (uint32_t offset = 0; offset < bytes; offset += kChunk)
    shared_bytes(shared + offset, kChunk, "TMA");
  return copy;
}

}  // namespace

void begin_bulk_copies(int threads) {
  under_way.clear();
  stores_of_thread.assign(threads, Stores());
}

void end_bulk_copies() {
  if (!under_way.empty()) fail("a block ended while TMA loads were under way");
}

void end_bulk_copies_of_thread() {
  const Stores& own = stores_of_thread[this_thread()];
  if (own.latest >= own.waited) fail("a thread ends before TMA has read what it stores");
}

bool advance_bulk_copies() {
  if (under_way.empty()) return false;
  make_and_forget(draw_below(static_cast<int>(under_way.size())));
  return true;
}

void start_bulk_load(uint32_t to, const CUtensorMap* map, uint32_t mbarrier, const int (&at)[5]) {
  Copy copy = described(Kind::kLoad, map, to, at);
  check_mbarrier(mbarrier, "TMA");
  copy.mbarrier = mbarrier;
  const auto bytes = static_cast<uint32_t>(copy.map.box_bytes());
  for (uint32_t offset = 0; offset < bytes; offset += kChunk)
    poison(shared_bytes(to + offset, kChunk, "TMA"), kChunk);
  under_way.push_back(copy);
}

void start_bulk_store(const CUtensorMap* map, uint32_t from, const int (&at)[5], bool adds) {
  Copy copy = described(adds ? Kind::kAdd : Kind::kStore, map, from, at);
  if (adds && copy.map.element_bytes != sizeof(float)) fail("TMA: it adds float32 alone here");
  for (int coordinate : at)
    if (coordinate < 0) fail("TMA: a store begins at %d, below 0", coordinate);
  Stores& own = stores_of_thread[this_thread()];
  copy.group = own.latest = own.groups;
  under_way.push_back(copy);
}

void commit_bulk_stores() {
  ++stores_of_thread[this_thread()].groups;
}

void wait_bulk_stores(int pending) {
  const int thread = this_thread();
  Stores& own = stores_of_thread[thread];
  own.waited = own.groups - pending;
  for (size_t i = 0; i < under_way.size();) {
    const Copy& copy = under_way[i];
    if (copy.kind != Kind::kLoad && copy.thread == thread && copy.group < own.waited)
      make_and_forget(i);
    else
      ++i;
  }
}

}  // namespace jax_na::emulation
