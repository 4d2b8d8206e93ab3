#include "cuda/emulation/wgmma.h"

#include <cstring>
#include <deque>
#include <vector>

#include "cuda/emulation/block.h"
#include "cuda/emulation/fail.h"
#include "cuda/emulation/shared_memory.h"
#include "cuda/emulation/tensor_map.h"

namespace jax_na::emulation {
namespace {

constexpr int kDepth = 16, kMostColumns = 256, kWarpsOfGroup = 4, kWarpRows = 16;
constexpr int kPerChunk = 8;

struct Product {
  Wgmma uniform;        // of lane 0
  float* d[kWarpSize];  // of the lanes
  uint32_t a[kWarpSize][4];
  int group;
};

struct Warp {
  std::deque<Product> under_way;
  int groups = 0;        // ended
  int issued = 0;        // products
  uint64_t history = 0;  // of what was issued
};
std::vector<Warp> warps;

// An operand in shared memory: where the 8 numbers of a chunk begin. Rows are those of a, or the
// columns of b.
class Operand {
 public:
  Operand(uint64_t descriptor, bool by_depth) : by_depth_(by_depth) {
    auto field = [&](int shift, int bits) {
      return static_cast<uint32_t>(descriptor >> shift & ((1u << bits) - 1));
    };
    start_ = field(0, 14) << 4;
    leading_ = field(16, 14) << 4;
    stride_ = field(32, 14) << 4;
    constexpr int kBits[] = {0, 3, 2, 1};
    bits_ = kBits[field(62, 2)];
    if (field(49, 3) != 0) fail("wgmma: base offsets are not emulated");
    if (bits_ > 0 && swizzled(start_, bits_) / 16 % (1 << bits_) != start_ / 16 % (1 << bits_))
      fail("wgmma: an operand at the shared address %u begins inside of eight rows", start_);
  }

  // Calls take(row, k, bits) for each number of `rows` rows from `first`.
  template <typename Take>
  void read(int first, int rows, Take take) const {
    uint16_t chunk[kPerChunk];
    if (by_depth_) {
      for (int k = 0; k < kDepth; ++k) {
        for (int row = 0; row < rows; row += kPerChunk) {
          read_chunk(address_by_depth((first + row) / kPerChunk, k), chunk);
          for (int i = 0; i < kPerChunk; ++i) take(row + i, k, chunk[i]);
        }
      }
      return;
    }
    for (int row = 0; row < rows; ++row) {
      for (int half = 0; half < 2; ++half) {
        read_chunk(address(first + row, half), chunk);
        for (int i = 0; i < kPerChunk; ++i) take(row, kPerChunk * half + i, chunk[i]);
      }
    }
  }

 private:
  static void read_chunk(uint32_t address, uint16_t (&to)[kPerChunk]) {
    std::memcpy(to, shared_bytes(address, sizeof to, "wgmma"), sizeof to);
  }
  uint32_t span() const { return 16u << bits_; }

  // Rows of numbers along the depth, in groups of eight.
  uint32_t address(int row, int half) const {
    const uint32_t group = row / 8, within = row % 8;
    const uint32_t between_halves = bits_ == 0 ? leading_ : 16;
    return swizzled(start_ + group * stride_ + within * span() + half * between_halves, bits_);
  }
  // Rows of one depth, of `span` bytes; what is beyond is in a further panel.
  uint32_t address_by_depth(int chunk, int k) const {
    const uint32_t group = k / 8, within = k % 8;
    if (bits_ == 0) return start_ + chunk * stride_ + group * leading_ + within * 16;
    const uint32_t per_row = span() / 16;
    return swizzled(start_ + chunk / per_row * leading_ + chunk % per_row * 16 + group * stride_ +
                        within * span(),
                    bits_);
  }

  bool by_depth_;
  uint32_t start_, leading_, stride_;
  int bits_;
};

void make(const Product& product, int warp) {
  const Wgmma& of = product.uniform;
  double a[kWarpRows][kDepth];
  static double b[kDepth][kMostColumns];
  if (of.a == nullptr) {
    Operand(of.a_operand, of.a_by_depth)
        .read(kWarpRows * (warp % kWarpsOfGroup), kWarpRows,
              [&](int row, int k, uint16_t bits) { a[row][k] = of.number(bits); });
  } else {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < 2; ++e)
          a[g + 8 * (i % 2)][8 * (i / 2) + 2 * t + e] =
              of.number(static_cast<uint16_t>(product.a[lane][i] >> 16 * e));
      }
    }
  }
  Operand(of.b_operand, of.b_by_depth).read(0, of.columns, [&](int column, int k, uint16_t bits) {
    b[k][column] = of.number(bits);
  });
  for (int row = 0; row < kWarpRows; ++row) {
    auto element = [&](int column) -> float& {
      const int lane = row % 8 * 4 + column % 8 / 2;
      return product.d[lane][column / 8 * 4 + row / 8 * 2 + column % 2];
    };
    double sums[kMostColumns];  // side by side, as a compiler can then add several at a time
    for (int column = 0; column < of.columns; ++column)
      sums[column] = of.adds ? element(column) : 0;
    for (int k = 0; k < kDepth; ++k)
      for (int column = 0; column < of.columns; ++column) sums[column] += a[row][k] * b[k][column];
    for (int column = 0; column < of.columns; ++column)
      element(column) = static_cast<float>(sums[column]);
  }
}

// Makes the products of the groups before `end`, in order.
void make_until(int warp, int end) {
  auto& under_way = warps[warp].under_way;
  while (!under_way.empty() && under_way.front().group < end) {
    make(under_way.front(), warp);
    under_way.pop_front();
  }
}

uint64_t mixed(uint64_t history, uint64_t value) {
  return (history ^ value) * 0x9e3779b97f4a7c15 + (history >> 29);
}

void issue(Operands operands) {
  Warp& warp = warps[this_warp_number()];
  Product product{*static_cast<const Wgmma*>(operands[0]), {}, {}, warp.groups};
  const Wgmma& first = product.uniform;
  if (first.columns < 8 || first.columns > kMostColumns || first.columns % 8 != 0)
    fail("wgmma: there is none of %d columns", first.columns);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& own = *static_cast<const Wgmma*>(operands[lane]);
    if (own.columns != first.columns || own.a_operand != first.a_operand ||
        own.b_operand != first.b_operand || own.adds != first.adds)
      fail("wgmma: lanes 0 and %d differ in their operands", lane);
    product.d[lane] = own.d;
    if (own.a != nullptr) std::memcpy(product.a[lane], own.a, sizeof product.a[lane]);
  }
  ++warp.issued;
  for (uint64_t value :
       {uint64_t(first.columns), first.a_operand, first.b_operand, uint64_t(first.adds)})
    warp.history = mixed(warp.history, value);
  warp.under_way.push_back(product);
  if (draw_below(2) == 0) make_until(this_warp_number(), warp.groups + 1);
}

}  // namespace

void begin_wgmma(int threads) {
  warps.assign((threads + kWarpSize - 1) / kWarpSize, Warp());
}

void end_wgmma() {
  for (size_t w = 0; w < warps.size(); ++w) {
    if (!warps[w].under_way.empty()) fail("warp %zu ended while its wgmma were under way", w);
    const size_t first = w / kWarpsOfGroup * kWarpsOfGroup;
    if (warps[w].issued != warps[first].issued || warps[w].history != warps[first].history)
      fail("wgmma: warps %zu and %zu of a warpgroup issued different products", first, w);
  }
}

void issue_wgmma(const Wgmma& product) {
  Wgmma own = product;
  meet_whole_warp("wgmma", &own, issue);
}

void fence_wgmma() {
  meet_whole_warp("wgmma.fence", nullptr, [](Operands) {});
}

void commit_wgmma() {
  meet_whole_warp("wgmma.commit_group", nullptr,
                  [](Operands) { ++warps[this_warp_number()].groups; });
}

void wait_wgmma(int pending) {
  meet_whole_warp("wgmma.wait_group", &pending, [](Operands operands) {
    const int warp = this_warp_number();
    make_until(warp, warps[warp].groups - *static_cast<const int*>(operands[0]));
  });
}

}  // namespace jax_na::emulation
