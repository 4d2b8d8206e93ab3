#include "cuda/hopper/turn.h"

#include <algorithm>

namespace jax_na::cuda {
namespace {

// What the CTA with the most to do takes.
double busiest(const std::vector<double>& clocks, int items, int ctas, int turn) {
  std::vector<double> of_cta(ctas, 0.0);
  size_t box = 0;
  // The CTA in the first place of a round goes back by as much as a CTA's place moves on.
  int cta = 0, place = 0, first = 0;
  for (int item = 0; item < items; ++item) {
    of_cta[cta] += clocks[box];
    if (++box == clocks.size()) box = 0;
    if (++cta == ctas) cta = 0;
    if (++place == ctas) {
      place = 0;
      first -= turn;
      if (first < 0) first += ctas;
      cta = first;
    }
  }
  return *std::max_element(of_cta.begin(), of_cta.end());
}

}  // namespace

int best_turn(const std::vector<double>& clocks, int items, int ctas) {
  constexpr double kWorthIt = 0.995, kRounding = 1 - 1e-9;
  // Of turns that are equally good by the count, the first; docs/hopper-forward.md has their times.
  constexpr int kTurns[] = {7, 5, 3, 11, 13, 17, 19, 23, 1, 2};
  int best = 0;
  double least = kWorthIt * busiest(clocks, items, ctas, 0);
  for (int turn : kTurns) {
    if (turn >= ctas) continue;
    const double most = busiest(clocks, items, ctas, turn);
    if (most >= kRounding * least) continue;
    best = turn;
    least = most;
  }
  return best;
}

}  // namespace jax_na::cuda
