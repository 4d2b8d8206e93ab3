#include "ffi/arguments.h"

#include <algorithm>
#include <vector>

#include "ffi/checks.h"

namespace jax_na {
namespace {

namespace ffi = ::xla::ffi;
using ffi::AnyBuffer;
using ffi::DataType;
using ffi::Error;

// Where the slabs lie on the axis; a periodic axis may be held with a halo of up to its own length
// on either side. Origins on a device are unknown here: a kernel meets nothing that a slab does not
// hold, whatever they are.
Error read_slabs(const int32_t* origins, int64_t queries, int64_t keys, int a, Axis& axis) {
  const int64_t halo = axis.boundary == Boundary::kWrap ? axis.length : 0;
  const int64_t query_origin = origins != nullptr ? origins[a] : 0;
  const int64_t key_origin = origins != nullptr ? origins[kMaxRank + a] : -halo;
  if (query_origin < 0 || query_origin + queries > axis.length)
    return invalid("the queries [", query_origin, ", ", query_origin + queries,
                   ") should lie in axis ", a, " of length ", axis.length);
  if (keys < 1 || key_origin < -halo || key_origin + keys > axis.length + halo)
    return invalid("the keys [", key_origin, ", ", key_origin + keys, ") should lie in axis ", a,
                   " of length ", axis.length);
  if (halo > 0 && queries == axis.length && keys == axis.length && origins != nullptr &&
      key_origin != 0)
    return invalid(
        "origins[1, ", a,
        "] should be 0 where queries and keys both hold the whole periodic axis of length ",
        axis.length, ", but got ", key_origin);
  axis.query_count = static_cast<int>(queries);
  axis.key_count = static_cast<int>(keys);
  if (origins != nullptr) {
    axis.query_origin = static_cast<int>(query_origin);
    axis.key_origin = static_cast<int>(key_origin);
  }
  return Error::Success();
}

Error read_problem(const Inputs& inputs, const Attributes& attributes, Memory memory, Problem& p,
                   Stored& stored) {
  if (Error e = read_stored("query", inputs.query, stored); e.failure()) return e;
  if (Error e = read_axes(attributes, p); e.failure()) return e;
  p.scale = attributes.scale;

  constexpr size_t kDims = kMaxRank + 3;
  ffi::Span<const int64_t> query = inputs.query.dimensions(), key = inputs.key.dimensions(),
                           value = inputs.value.dimensions();
  ffi::Span<const int64_t> more = inputs.additional_keys.dimensions(),
                           bias = inputs.bias.dimensions();
  if (query.size() != kDims || key.size() != kDims || value.size() != kDims)
    return invalid("query, key and value should have ", kDims, " dimensions, but got ",
                   shape_text(query), ", ", shape_text(key), " and ", shape_text(value));
  for (const auto* shape : {&query, &key, &value})
    for (size_t i = 1; i < kDims; ++i)
      if ((*shape)[i] > kLargest)
        return invalid("a dimension should be at most ", kLargest, ", but got ",
                       shape_text(*shape));
  if (Error e = expect("origins", inputs.origins, DataType::S32, {2, kMaxRank}); e.failure())
    return e;
  const auto* origins = memory == Memory::kHost
                            ? static_cast<const int32_t*>(inputs.origins.untyped_data())
                            : nullptr;
  for (int a = 0; a < kMaxRank; ++a)
    if (Error e = read_slabs(origins, query[1 + a], key[1 + a], a, p.axes[a]); e.failure())
      return e;
  const int64_t heads = query[4], head_dim = query[5], kv_heads = key[4], value_dim = value[5];
  if (heads < 1 || kv_heads < 1 || heads % kv_heads != 0)
    return invalid("query heads should be a multiple of key heads, but got ", heads, " and ",
                   kv_heads);
  if (head_dim < 1 || value_dim < 1)
    return invalid("head dimensions should be at least 1, but got ", head_dim, " and ", value_dim);
  p.batch = query[0];
  p.heads = static_cast<int>(heads);
  p.kv_heads = static_cast<int>(kv_heads);
  p.head_dim = static_cast<int>(head_dim);
  p.value_dim = static_cast<int>(value_dim);
  const DataType type = inputs.query.element_type();
  if (Error e =
          expect("key", inputs.key, type, {p.batch, key[1], key[2], key[3], kv_heads, head_dim});
      e.failure())
    return e;
  if (Error e = expect("value", inputs.value, type,
                       {p.batch, key[1], key[2], key[3], kv_heads, value_dim});
      e.failure())
    return e;
  if (more.size() != 4 || more[1] > kLargest)
    return invalid("additional_keys should have 4 dimensions, but got ", shape_text(more));
  p.additional = static_cast<int>(more[1]);
  if (Error e = expect("additional_keys", inputs.additional_keys, type,
                       {p.batch, more[1], kv_heads, head_dim});
      e.failure())
    return e;
  if (Error e = expect("additional_values", inputs.additional_values, type,
                       {p.batch, more[1], kv_heads, value_dim});
      e.failure())
    return e;
  if (bias.size() != 5 || (bias[0] != 0 && bias[0] != 1 && bias[0] != p.batch))
    return invalid("relative_position_bias should have 5 dimensions and a batch of 0, 1 or ",
                   p.batch, ", but got ", shape_text(bias));
  p.bias_batch = static_cast<int>(std::min<int64_t>(bias[0], kLargest));
  return expect("relative_position_bias", inputs.bias, compute_type(stored),
                {bias[0], heads, 2 * p.axes[0].window - 1, 2 * p.axes[1].window - 1,
                 2 * p.axes[2].window - 1});
}

struct Expected {
  const char* name;
  const AnyBuffer& buffer;
  DataType type;
  std::vector<int64_t> shape;
};

Error expect_all(std::initializer_list<Expected> all) {
  for (const Expected& one : all)
    if (Error e = expect(one.name, one.buffer, one.type, one.shape); e.failure()) return e;
  return Error::Success();
}

// Shapes of results, from those of the inputs.
struct Shapes {
  std::vector<int64_t> query, out, lse, key, value, additional_keys, additional_values, dbias;

  Shapes(const Inputs& inputs, const Problem& p) {
    auto dims = [](const AnyBuffer& buffer) {
      return std::vector<int64_t>(buffer.dimensions().begin(), buffer.dimensions().end());
    };
    query = out = lse = dims(inputs.query);
    out.back() = p.value_dim;
    lse.pop_back();
    key = dims(inputs.key);
    value = dims(inputs.value);
    additional_keys = dims(inputs.additional_keys);
    additional_values = dims(inputs.additional_values);
    dbias = dims(inputs.bias);
    dbias[0] = p.bias_batch == 0 ? 0 : p.batch;
  }
};

}  // namespace

Error read_forward(const Inputs& inputs, const ForwardResults& results,
                   const Attributes& attributes, Memory origins, Problem& problem, Stored& stored) {
  if (Error e = read_problem(inputs, attributes, origins, problem, stored); e.failure()) return e;
  const Shapes shapes(inputs, problem);
  return expect_all({{"out", results.out, inputs.query.element_type(), shapes.out},
                     {"lse", results.lse, compute_type(stored), shapes.lse}});
}

Error read_backward(const Inputs& inputs, const BackwardInputs& more,
                    const BackwardResults& results, const Attributes& attributes, Memory origins,
                    Problem& problem, Stored& stored) {
  if (Error e = read_problem(inputs, attributes, origins, problem, stored); e.failure()) return e;
  const Shapes shapes(inputs, problem);
  const DataType type = inputs.query.element_type(), compute = compute_type(stored);
  return expect_all(
      {{"out", more.out, type, shapes.out},
       {"lse", more.lse, compute, shapes.lse},
       {"dout", more.dout, type, shapes.out},
       {"dlse", more.dlse, compute, shapes.lse},
       {"dquery", results.dquery, type, shapes.query},
       {"dkey", results.dkey, type, shapes.key},
       {"dvalue", results.dvalue, type, shapes.value},
       {"dadditional_keys", results.dadditional_keys, type, shapes.additional_keys},
       {"dadditional_values", results.dadditional_values, type, shapes.additional_values},
       {"dbias", results.dbias, compute, shapes.dbias}});
}

}  // namespace jax_na
