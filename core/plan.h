// How a kernel cuts a problem: boxes of stationary tokens, and how much of the streamed side it
// holds at a time.
//
// Stationary are the queries in the forward pass and in the query gradient, and the keys in the key
// gradient; the other side streams past them. A plan depends on the problem alone, never on the
// number of threads, so results do not either.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/problem.h"

namespace jax_na {

enum class Pass : int { kForward = 0, kQueryGradient = 1, kKeyGradient = 2 };

// A stretch of one axis inside one dilation group: stationary positions, and the streamed ones that
// any of them meets.
struct Span {
  int group;
  int begin;
  int count;
  Interval met;
};

struct Plan {
  Pass pass = Pass::kForward;
  int lanes = 1;                      // tokens of one SIMD vector
  int rows = 1;                       // stationary neighbours that share a register tile
  int box[kMaxRank] = {1, 1, 1};      // stationary positions of a tile, per axis
  int widest[kMaxRank] = {0, 0, 0};   // streamed positions that the widest tile meets, per axis
  std::vector<Span> spans[kMaxRank];  // a tile is a triple of spans
  int chunk_lines = 1;                // streamed lines (z, y) packed at a time
  int chunk_columns = 1;              // streamed positions of a line packed at a time
  int64_t useful = 0;                 // visible pairs of one head of one batch entry
  int64_t visited = 0;                // pairs computed for them, masked ones included
  int64_t packed = 0;                 // streamed tokens packed for them

  int64_t tiles() const {
    return static_cast<int64_t>(spans[0].size()) * static_cast<int64_t>(spans[1].size()) *
           static_cast<int64_t>(spans[2].size());
  }
  // Tokens between two features of a packed line: whole vectors, so that a strip may begin
  // anywhere.
  int pitch() const { return (chunk_columns + lanes - 1) / lanes * lanes; }
  int padded_box_x() const { return (box[2] + rows - 1) / rows * rows; }
  std::string str() const;
};

// Plans one pass of the CPU kernels, whose compute type fills a vector with `lanes` elements of
// `bytes` each.
Plan make_cpu_plan(const Problem& problem, Pass pass, int lanes, int bytes);

// The smallest register tile row counts that are compiled, in ascending order.
constexpr int kPlanRows[] = {2, 4};

}  // namespace jax_na
