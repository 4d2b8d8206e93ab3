#include "cpu/handlers.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "cpu/kernels.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"
#include "ffi/arguments.h"
#include "ffi/bindings.h"

namespace jax_na {
namespace {

namespace ffi = ::xla::ffi;
using ffi::AnyBuffer;
using ffi::Error;
using Result = ffi::Result<AnyBuffer>;
using Entries = ffi::Span<const int64_t>;

constexpr int64_t kPartsWanted = 16;  // tasks of the query gradient where parts share a sum

template <typename Args>
void run(ffi::ThreadPool& pool, const Kernel<Args>& kernel, const Args& args) {
  parallel_for(pool, kernel.tasks(args), kernel.scratch_bytes(args),
               [&](int64_t task, std::byte* scratch) { kernel.run(args, task, scratch); });
}

int element_bytes(Stored stored) {
  return stored == Stored::kFloat64 ? 8 : 4;
}
int lanes(Stored stored) {
  return kernels().vector_bytes / element_bytes(stored);
}
int64_t padded(int64_t features, Stored stored) {
  return (features + lanes(stored) - 1) / lanes(stored) * lanes(stored);
}

// An exception must not cross the C boundary to XLA.
template <typename Call>
Error guarded(Call call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return Error(ffi::ErrorCode::kResourceExhausted, "jax_na: out of memory for scratch space");
  } catch (const std::exception& e) {
    return Error::Internal(std::string("jax_na: ") + e.what());
  }
}

void zero(Result& result) {
  std::fill_n(static_cast<std::byte*>(result->untyped_data()), result->size_bytes(), std::byte{0});
}

Error forward(ffi::ThreadPool pool, AnyBuffer query, AnyBuffer key, AnyBuffer value,
              AnyBuffer additional_keys, AnyBuffer additional_values, AnyBuffer bias,
              AnyBuffer origins, Result out, Result lse, Entries length, Entries window,
              Entries stride, Entries dilation, Entries causal, Entries boundary, double scale) {
  Problem problem;
  Stored stored;
  if (Error e =
          read_forward({query, key, value, additional_keys, additional_values, bias, origins},
                       {*out, *lse}, {length, window, stride, dilation, causal, boundary, scale},
                       Memory::kHost, problem, stored);
      e.failure())
    return e;
  if (lse->element_count() == 0) return Error::Success();

  prefer_huge_pages(out->untyped_data(), static_cast<int64_t>(out->size_bytes()));
  return guarded([&] {
    Plan plan = make_cpu_plan(problem, Pass::kForward, lanes(stored), element_bytes(stored));
    ForwardArgs args{&problem,
                     &plan,
                     query.untyped_data(),
                     key.untyped_data(),
                     value.untyped_data(),
                     additional_keys.untyped_data(),
                     additional_values.untyped_data(),
                     bias.untyped_data(),
                     out->untyped_data(),
                     lse->untyped_data()};
    run(pool, kernels().forward[static_cast<int>(stored)], args);
    return Error::Success();
  });
}

Error backward(ffi::ThreadPool pool, AnyBuffer query, AnyBuffer key, AnyBuffer value,
               AnyBuffer additional_keys, AnyBuffer additional_values, AnyBuffer bias,
               AnyBuffer origins, AnyBuffer out, AnyBuffer lse, AnyBuffer dout, AnyBuffer dlse,
               Result dquery, Result dkey, Result dvalue, Result dadditional_keys,
               Result dadditional_values, Result dbias, Entries length, Entries window,
               Entries stride, Entries dilation, Entries causal, Entries boundary, double scale) {
  Problem p;
  Stored stored;
  if (Error e = read_backward(
          {query, key, value, additional_keys, additional_values, bias, origins},
          {out, lse, dout, dlse},
          {*dquery, *dkey, *dvalue, *dadditional_keys, *dadditional_values, *dbias},
          {length, window, stride, dilation, causal, boundary, scale}, Memory::kHost, p, stored);
      e.failure())
    return e;
  if (lse.element_count() == 0) {
    for (Result* result : {&dquery, &dkey, &dvalue, &dadditional_keys, &dadditional_values, &dbias})
      zero(*result);
    return Error::Success();
  }

  for (Result* result : {&dquery, &dkey, &dvalue})
    prefer_huge_pages((*result)->untyped_data(), static_cast<int64_t>((*result)->size_bytes()));
  return guarded([&] {
    Plan by_query = make_cpu_plan(p, Pass::kQueryGradient, lanes(stored), element_bytes(stored));
    Plan by_key = make_cpu_plan(p, Pass::kKeyGradient, lanes(stored), element_bytes(stored));
    const int64_t tiles = by_query.tiles(), entries = p.batch * p.kv_heads;
    const bool shares = p.additional > 0 || p.bias_batch > 0;
    const int64_t parts =
        shares ? std::clamp<int64_t>((kPartsWanted + entries - 1) / entries, 1, tiles) : tiles;
    const int64_t token_sums = entries * parts * p.additional;
    const int64_t bias_sums = p.bias_batch > 0 ? p.batch * p.heads * parts * p.bias_size() : 0;
    auto scratch = [&](int64_t elements) {
      return std::unique_ptr<std::byte[]>(
          new std::byte[static_cast<size_t>(elements * element_bytes(stored))]);
    };
    auto delta = scratch(p.query_rows());
    auto partial_keys = scratch(token_sums * padded(p.head_dim, stored));
    auto partial_values = scratch(token_sums * padded(p.value_dim, stored));
    auto partial_bias = scratch(bias_sums);
    BackwardArgs args{&p,
                      &by_query,
                      query.untyped_data(),
                      key.untyped_data(),
                      value.untyped_data(),
                      additional_keys.untyped_data(),
                      additional_values.untyped_data(),
                      bias.untyped_data(),
                      out.untyped_data(),
                      lse.untyped_data(),
                      dout.untyped_data(),
                      dlse.untyped_data(),
                      delta.get(),
                      dquery->untyped_data(),
                      dkey->untyped_data(),
                      dvalue->untyped_data(),
                      dadditional_keys->untyped_data(),
                      dadditional_values->untyped_data(),
                      dbias->untyped_data(),
                      partial_keys.get(),
                      partial_values.get(),
                      partial_bias.get(),
                      parts};
    const int index = static_cast<int>(stored);
    run(pool, kernels().delta[index], args);
    run(pool, kernels().query_gradient[index], args);
    if (shares) run(pool, kernels().reduction[index], args);
    args.plan = &by_key;
    run(pool, kernels().key_gradient[index], args);
    return Error::Success();
  });
}

}  // namespace
}  // namespace jax_na

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_na_cpu_forward, jax_na::forward,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .JAX_NA_INPUTS.JAX_NA_RESULTS.JAX_NA_ATTRIBUTES);

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jax_na_cpu_backward, jax_na::backward,
    xla::ffi::Ffi::Bind()
        .Ctx<xla::ffi::ThreadPool>()
        .JAX_NA_INPUTS.JAX_NA_BACKWARD_INPUTS.JAX_NA_GRADIENTS.JAX_NA_ATTRIBUTES);
