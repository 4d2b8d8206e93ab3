#include "ffi/unfused_arguments.h"

#include <algorithm>
#include <vector>

#include "ffi/checks.h"

namespace jax_na {

namespace ffi = ::xla::ffi;
using ffi::DataType;
using ffi::Error;

Error read_unfused(const UnfusedTensors& tensors, const Attributes& attributes, Problem& p,
                   Stored& stored) {
  if (Error e = read_stored("slots", *tensors.slots, stored); e.failure()) return e;
  if (Error e = read_axes(attributes, p); e.failure()) return e;
  p.scale = attributes.scale;
  const ffi::Span<const int64_t> slots = tensors.slots->dimensions();
  constexpr size_t kDims = kMaxRank + 3;
  if (slots.size() != kDims || slots[4] < 1 || slots[4] > kLargest)
    return invalid("slots should have ", kDims, " dimensions and a head, but got ",
                   shape_text(slots));
  const DataType type = tensors.slots->element_type();
  int64_t window = 1;
  std::vector<int64_t> tokens = {slots[0]};
  for (Axis& axis : p.axes) {
    axis.query_count = axis.key_count = axis.length;
    tokens.push_back(axis.length);
    window *= axis.window;
  }
  p.batch = slots[0];
  p.heads = p.kv_heads = static_cast<int>(slots[4]);
  p.head_dim = p.value_dim = 1;
  const int64_t additional = slots[5] - window;
  if (additional < 0 || additional > kLargest)
    return invalid("slots should have at least the ", window, " of a window, but got ",
                   shape_text(slots));
  p.additional = static_cast<int>(additional);
  auto with = [&](std::vector<int64_t> shape, std::initializer_list<int64_t> more) {
    shape.insert(shape.end(), more);
    return shape;
  };
  if (Error e = expect("slots", *tensors.slots, type, with(tokens, {p.heads, slots[5]}));
      e.failure())
    return e;

  for (const auto* rows : {tensors.query_rows, tensors.key_rows}) {
    if (rows == nullptr) continue;
    const ffi::Span<const int64_t> shape = rows->dimensions();
    if (shape.size() != kDims || shape[4] < 1 || slots[4] % shape[4] != 0 || shape[5] < 1 ||
        shape[5] > kLargest)
      return invalid("rows should have ", kDims, " dimensions, heads that divide the ", slots[4],
                     " of the slots, and features, but got ", shape_text(shape));
    p.head_dim = p.value_dim = static_cast<int>(shape[5]);
    if (rows == tensors.key_rows) p.kv_heads = static_cast<int>(shape[4]);
  }
  if (tensors.query_rows != nullptr)
    if (Error e =
            expect("query_rows", *tensors.query_rows, type, with(tokens, {p.heads, p.head_dim}));
        e.failure())
      return e;
  if (tensors.key_rows != nullptr)
    if (Error e =
            expect("key_rows", *tensors.key_rows, type, with(tokens, {p.kv_heads, p.head_dim}));
        e.failure())
      return e;
  if (tensors.additional_rows != nullptr)
    if (Error e = expect("additional_rows", *tensors.additional_rows, type,
                         {p.batch, additional, p.kv_heads, p.head_dim});
        e.failure())
      return e;
  if (tensors.bias == nullptr) return Error::Success();
  const ffi::Span<const int64_t> bias = tensors.bias->dimensions();
  if (bias.size() != 5 || (bias[0] != 0 && bias[0] != 1 && bias[0] != p.batch))
    return invalid("relative_position_bias should have 5 dimensions and a batch of 0, 1 or ",
                   p.batch, ", but got ", shape_text(bias));
  p.bias_batch = static_cast<int>(std::min<int64_t>(bias[0], kLargest));
  return expect("relative_position_bias", *tensors.bias, compute_type(stored),
                {bias[0], p.heads, 2 * p.axes[0].window - 1, 2 * p.axes[1].window - 1,
                 2 * p.axes[2].window - 1});
}

}  // namespace jax_na
