// Which cases a test program runs.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

#include "cuda/emulation/block.h"
#include "cuda/emulation/tests/cases.h"
#include "cuda/emulation/tests/run.h"

namespace jax_na::emulation {

// Calls run(device, case, kind) for every case in one type of 16 bits and one of 32, or in all that
// there are where it was asked for by name; every type meets every device in turn.
template <typename Run>
void run_cases_in_types(const std::string& part_of_name, Run run) {
  const bool all_types = !part_of_name.empty();
  int number = 0, device = 0;
  for (const Case& of : cases()) {
    ++number;
    if (of.name.find(part_of_name) == std::string::npos) continue;
    if (all_types || number % 2 == 0) {
      run(device++, of, kBFloat16);
      run(device++, of, kHighest);
    }
    if (all_types || number % 2 == 1) {
      run(device++, of, kFloat16);
      run(device++, of, kFloat32);
    }
  }
}

// The same for problems drawn at random, each in one type.
template <typename Run>
void run_random_cases_in_types(int count, int first, Run run) {
  for (int seed = first; seed < first + count; ++seed) {
    const Case of = random_case(seed);
    set_seed(static_cast<uint64_t>(seed));
    switch (seed % 4) {
      case 0:
        run(seed / 4, of, kBFloat16);
        break;
      case 1:
        run(seed / 4, of, kFloat16);
        break;
      case 2:
        run(seed / 4, of, kFloat32);
        break;
      default:
        run(seed / 4, of, kHighest);
    }
  }
}

// Calls run(case) for those whose names contain the program's argument, or, after --random COUNT
// SEED, for problems drawn at random. Returns the exit status of the program.
template <typename Run>
int run_chosen_cases(int count, char** arguments, Run run) {
  const std::string mode = count > 1 ? arguments[1] : "";
  if (mode == "--random" && count == 4) {
    const int first = std::atoi(arguments[3]);
    for (int seed = first; seed < first + std::atoi(arguments[2]); ++seed) {
      set_seed(static_cast<uint64_t>(seed));
      run(random_case(seed));
    }
  } else {
    for (const Case& of : cases())
      if (of.name.find(mode) != std::string::npos) run(of);
  }
  return report_failures();
}

}  // namespace jax_na::emulation
