// Tensor maps: how the copy engine sees the tensors of a problem.
#pragma once

#include <string>

#include "cuda/hopper/arguments.h"
#include "cuda/launch.h"

namespace jax_na::cuda {

// Fills what `to` knows of the tensors: maps, and where LSE goes, for the launch of `phase`, whose
// plan and problem are in `to`. `line_columns` are the columns of a box of what is read, and
// `out_columns` those of one of results. Returns an empty text or what is wrong.
std::string encode_maps(const Forward& from, const int (&phase)[kMaxRank], int line_columns,
                        int out_columns, HopperArguments& to);

}  // namespace jax_na::cuda
