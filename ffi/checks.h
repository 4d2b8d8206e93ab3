// Checks that the readers of arguments share. An error names what is wrong and the legal range.
#pragma once

#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "core/problem.h"
#include "core/stored.h"
#include "ffi/arguments.h"
#include "xla/ffi/api/ffi.h"

namespace jax_na {

constexpr int64_t kLargest =
    std::numeric_limits<int32_t>::max() / 4;  // of a length or a size: sums stay in 32 bits

template <typename... Parts>
xla::ffi::Error invalid(const Parts&... parts) {
  std::ostringstream text;
  text << "jax_na: ";
  (text << ... << parts);
  return xla::ffi::Error::InvalidArgument(text.str());
}

std::string shape_text(xla::ffi::Span<const int64_t> shape);

// The element type of tensors; `name` is said in an error.
xla::ffi::Error read_stored(const char* name, const xla::ffi::AnyBuffer& buffer, Stored& stored);

// That of bias and LSE.
xla::ffi::DataType compute_type(Stored stored);

// The windows, without the slabs that tensors hold.
xla::ffi::Error read_axes(const Attributes& attributes, Problem& problem);

// Checks that a tensor has exactly this type and shape.
xla::ffi::Error expect(const char* name, const xla::ffi::AnyBuffer& buffer, xla::ffi::DataType type,
                       const std::vector<int64_t>& shape);

}  // namespace jax_na
