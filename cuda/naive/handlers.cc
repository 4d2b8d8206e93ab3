// The custom calls of na_qk and na_av on CUDA devices.
#include <cuda_runtime_api.h>

#include <limits>
#include <string>

#include "cuda/guarded.h"
#include "cuda/handlers.h"
#include "cuda/initialize.h"
#include "cuda/naive/unfused.h"
#include "ffi/bindings.h"
#include "ffi/unfused_arguments.h"

namespace jax_na::cuda {
namespace {

namespace ffi = ::xla::ffi;
using ffi::AnyBuffer;
using ffi::Error;
using Result = ffi::Result<AnyBuffer>;
using Entries = ffi::Span<const int64_t>;

void* pointer_of(const AnyBuffer* buffer) {
  return buffer == nullptr ? nullptr : buffer->untyped_data();
}

struct Workspace {
  const AnyBuffer* buffer = nullptr;
  int64_t (*needed)(const Problem&, Stored) = nullptr;  // bytes
};

using Launch = std::string (*)(const Unfused&, cudaStream_t);

// Reads the tensors of an operation and launches it. Invisible slots of results are `invisible`.
Error call(Launch operation, cudaStream_t stream, const UnfusedTensors& tensors,
           const Attributes& attributes, double invisible = 0.0, Workspace workspace = {}) {
  Unfused arguments{};
  const Problem& problem = arguments.problem;
  if (Error e = read_unfused(tensors, attributes, arguments.problem, arguments.stored); e.failure())
    return e;
  if (problem.batch == 0) return Error::Success();
  if (workspace.buffer != nullptr) {
    const int64_t needed = workspace.needed(problem, arguments.stored);
    const int64_t given = static_cast<int64_t>(workspace.buffer->size_bytes());
    if (given < needed)
      return Error::InvalidArgument("jax_na: the workspace should have " + std::to_string(needed) +
                                    " bytes, but has " + std::to_string(given));
  }
  arguments.invisible = invisible;
  arguments.slots = pointer_of(tensors.slots);
  arguments.query_rows = pointer_of(tensors.query_rows);
  arguments.key_rows = pointer_of(tensors.key_rows);
  arguments.additional_rows = pointer_of(tensors.additional_rows);
  arguments.bias = pointer_of(tensors.bias);
  arguments.workspace = pointer_of(workspace.buffer);
  return guarded([&] {
    const std::string wrong = check_alignment({arguments.query_rows, arguments.key_rows});
    return wrong.empty() ? operation(arguments, stream) : wrong;
  });
}

Error products(cudaStream_t stream, AnyBuffer query_rows, AnyBuffer key_rows,
               AnyBuffer additional_rows, AnyBuffer bias, Result slots, Entries length,
               Entries window, Entries stride, Entries dilation, Entries causal, Entries boundary,
               double scale, int64_t masked) {
  return call(unfused_products, stream, {&*slots, &query_rows, &key_rows, &additional_rows, &bias},
              {length, window, stride, dilation, causal, boundary, scale},
              masked != 0 ? -std::numeric_limits<double>::infinity() : 0.0);
}

Error sums(cudaStream_t stream, AnyBuffer slots, AnyBuffer key_rows, AnyBuffer additional_rows,
           Result query_rows, Entries length, Entries window, Entries stride, Entries dilation,
           Entries causal, Entries boundary, double scale) {
  return call(unfused_sums, stream, {&slots, &*query_rows, &key_rows, &additional_rows, nullptr},
              {length, window, stride, dilation, causal, boundary, scale});
}

Error transposed(cudaStream_t stream, AnyBuffer slots, AnyBuffer query_rows, Result key_rows,
                 Result additional_rows, Result workspace, Entries length, Entries window,
                 Entries stride, Entries dilation, Entries causal, Entries boundary, double scale) {
  return call(unfused_transposed, stream,
              {&slots, &query_rows, &*key_rows, &*additional_rows, nullptr},
              {length, window, stride, dilation, causal, boundary, scale}, 0.0,
              {&*workspace, unfused_transposed_workspace});
}

Error bias_sums(cudaStream_t stream, AnyBuffer slots, Result bias, Result workspace, Entries length,
                Entries window, Entries stride, Entries dilation, Entries causal, Entries boundary,
                double scale) {
  if (bias->dimensions().size() != 5 || slots.dimensions().size() != 6 ||
      bias->dimensions()[0] != slots.dimensions()[0])
    return Error::InvalidArgument("jax_na: the sums of a bias should have the batch of the slots");
  return call(unfused_bias_sums, stream, {&slots, nullptr, nullptr, nullptr, &*bias},
              {length, window, stride, dilation, causal, boundary, scale}, 0.0,
              {&*workspace, unfused_bias_sums_workspace});
}

}  // namespace
}  // namespace jax_na::cuda

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_na_cuda_unfused_initialize,
                              jax_na::cuda::initialize<jax_na::cuda::load_unfused_kernels>,
                              xla::ffi::Ffi::BindInitialize());

// Captured into CUDA graphs: the handlers neither allocate nor wait.
#define JAX_NA_DEFINE_UNFUSED(operation, binding)                                  \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                   \
      jax_na_cuda_unfused_##operation, jax_na::cuda::operation,                    \
      xla::ffi::Ffi::Bind().Ctx<xla::ffi::PlatformStream<cudaStream_t>>().binding, \
      {xla::ffi::Traits::kCmdBufferCompatible})
#define JAX_NA_IN Arg<xla::ffi::AnyBuffer>()
#define JAX_NA_OUT Ret<xla::ffi::AnyBuffer>()

JAX_NA_DEFINE_UNFUSED(products, JAX_NA_IN.JAX_NA_IN.JAX_NA_IN.JAX_NA_IN.JAX_NA_OUT.JAX_NA_ATTRIBUTES
                                    .Attr<int64_t>("masked"));
JAX_NA_DEFINE_UNFUSED(sums, JAX_NA_IN.JAX_NA_IN.JAX_NA_IN.JAX_NA_OUT.JAX_NA_ATTRIBUTES);
JAX_NA_DEFINE_UNFUSED(transposed,
                      JAX_NA_IN.JAX_NA_IN.JAX_NA_OUT.JAX_NA_OUT.JAX_NA_OUT.JAX_NA_ATTRIBUTES);
JAX_NA_DEFINE_UNFUSED(bias_sums, JAX_NA_IN.JAX_NA_OUT.JAX_NA_OUT.JAX_NA_ATTRIBUTES);
