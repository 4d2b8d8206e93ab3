#include "ffi/checks.h"

#include <algorithm>

namespace jax_na {

namespace ffi = ::xla::ffi;
using ffi::AnyBuffer;
using ffi::DataType;
using ffi::Error;

namespace {

Error expect_range(const char* name, int axis, int64_t value, int64_t low, int64_t high) {
  if (low <= value && value <= high) return Error::Success();
  return invalid(name, "[", axis, "] should be between ", low, " and ", high, ", but got ", value);
}

Error read_axis(const Attributes& attributes, int a, Axis& axis) {
  const int64_t length = attributes.length[a], window = attributes.window[a],
                dilation = attributes.dilation[a];
  if (Error e = expect_range("length", a, length, 1, kLargest); e.failure()) return e;
  if (Error e = expect_range("dilation", a, dilation, 1, length); e.failure()) return e;
  if (Error e = expect_range("kernel_size", a, window, 1, length / dilation); e.failure()) return e;
  if (Error e = expect_range("stride", a, attributes.stride[a], 1, window); e.failure()) return e;
  if (Error e = expect_range("is_causal", a, attributes.causal[a], 0, 1); e.failure()) return e;
  if (Error e = expect_range("boundary", a, attributes.boundary[a], 0, 2); e.failure()) return e;
  axis.length = static_cast<int>(length);
  axis.window = static_cast<int>(window);
  axis.stride = static_cast<int>(attributes.stride[a]);
  axis.dilation = static_cast<int>(dilation);
  axis.causal = attributes.causal[a] != 0;
  axis.boundary = static_cast<Boundary>(attributes.boundary[a]);
  if (axis.boundary == Boundary::kWrap && (axis.causal || length % dilation != 0))
    return invalid("axis ", a, " wraps: it cannot be causal, and dilation ", dilation,
                   " should divide its length ", length);
  return Error::Success();
}

}  // namespace

std::string shape_text(ffi::Span<const int64_t> shape) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < shape.size(); ++i) text << (i > 0 ? ", " : "") << shape[i];
  text << "]";
  return text.str();
}

Error read_stored(const char* name, const AnyBuffer& buffer, Stored& stored) {
  switch (buffer.element_type()) {
    case DataType::F32:
      stored = Stored::kFloat32;
      break;
    case DataType::F64:
      stored = Stored::kFloat64;
      break;
    case DataType::BF16:
      stored = Stored::kBFloat16;
      break;
    case DataType::F16:
      stored = Stored::kFloat16;
      break;
    default:
      return invalid(name, " should be float32, float64, bfloat16 or float16");
  }
  return Error::Success();
}

DataType compute_type(Stored stored) {
  return stored == Stored::kFloat64 ? DataType::F64 : DataType::F32;
}

Error read_axes(const Attributes& attributes, Problem& problem) {
  for (const auto* entries : {&attributes.length, &attributes.window, &attributes.stride,
                              &attributes.dilation, &attributes.causal, &attributes.boundary})
    if (entries->size() != kMaxRank)
      return invalid("every attribute should have ", kMaxRank, " entries, but one has ",
                     entries->size());
  for (int a = 0; a < kMaxRank; ++a)
    if (Error e = read_axis(attributes, a, problem.axes[a]); e.failure()) return e;
  return Error::Success();
}

Error expect(const char* name, const AnyBuffer& buffer, DataType type,
             const std::vector<int64_t>& shape) {
  if (buffer.element_type() != type)
    return invalid(name, " has an element type that does not fit the query's");
  ffi::Span<const int64_t> dims = buffer.dimensions();
  if (dims.size() != shape.size() || !std::equal(shape.begin(), shape.end(), dims.begin()))
    return invalid(name, " should be of shape ", shape_text({shape.data(), shape.size()}),
                   ", but got ", shape_text(dims));
  return Error::Success();
}

}  // namespace jax_na
