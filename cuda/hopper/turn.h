// Which CTA has which item.
//
// Items are handed out in rounds, one to each CTA. Boxes at the borders of a tensor meet fewer
// tiles than others, and where the number of CTAs and that of boxes have a factor in common, the
// same CTAs would have them in every round. So from one round to the next items move on by some
// CTAs.
#pragma once

#include <vector>

namespace jax_na::cuda {

// Behind more rounds CTAs differ by little, and the search takes its time.
constexpr int kMostTurnedRounds = 512;

// By how many CTAs items move on, for the CTA with the most to do to have as little as it can.
// `clocks` is what one after the other of a head's boxes takes; `items` are those of all heads.
int best_turn(const std::vector<double>& clocks, int items, int ctas);

}  // namespace jax_na::cuda
