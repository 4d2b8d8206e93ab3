#include "cuda/handlers.h"

#include <cuda_runtime_api.h>

#include <string>

#include "cuda/forward_choice.h"
#include "cuda/gemm/gemm.h"
#include "cuda/guarded.h"
#include "cuda/initialize.h"
#include "cuda/launch.h"
#include "cuda/naive/naive.h"
#include "ffi/arguments.h"
#include "ffi/bindings.h"

namespace jax_na::cuda {
namespace {

namespace ffi = ::xla::ffi;
using ffi::AnyBuffer;
using ffi::Error;
using Result = ffi::Result<AnyBuffer>;
using Entries = ffi::Span<const int64_t>;

int64_t fused_workspace(const Problem& problem, Stored stored, bool deterministic) {
  return fused_backward_workspace(problem, stored, deterministic);
}

int64_t gemm_workspace(const Problem& problem, Stored stored, bool) {
  return gemm_backward_workspace(problem, stored);
}

int64_t naive_workspace(const Problem& problem, Stored stored, bool) {
  return naive_backward_workspace(problem, stored);
}

// A backward pass that is deterministic in any case.
template <auto kLaunch>
std::string deterministic(const Backward& arguments, bool, cudaStream_t stream) {
  return kLaunch(arguments, stream);
}

std::string check_workspace(const AnyBuffer& workspace, int64_t needed) {
  if (static_cast<int64_t>(workspace.size_bytes()) >= needed) return "";
  return "the workspace should have " + std::to_string(needed) + " bytes, but has " +
         std::to_string(workspace.size_bytes());
}

// Reads the arguments and calls `launch` with them.
template <typename Launch>
Error run_forward(const Inputs& inputs, Result out, Result lse, const Attributes& attributes,
                  int64_t precision, Launch launch) {
  Forward arguments{};
  if (Error e = read_forward(inputs, {*out, *lse}, attributes, Memory::kDevice, arguments.problem,
                             arguments.stored);
      e.failure())
    return e;
  if (lse->element_count() == 0) return Error::Success();
  arguments.precision = precision == 0 ? Precision::kDefault : Precision::kHighest;
  arguments.query = inputs.query.untyped_data();
  arguments.key = inputs.key.untyped_data();
  arguments.value = inputs.value.untyped_data();
  arguments.additional_keys = inputs.additional_keys.untyped_data();
  arguments.additional_values = inputs.additional_values.untyped_data();
  arguments.bias = inputs.bias.untyped_data();
  arguments.origins = static_cast<const int32_t*>(inputs.origins.untyped_data());
  arguments.out = out->untyped_data();
  arguments.lse = lse->untyped_data();
  return guarded([&] {
    const std::string wrong =
        check_alignment({arguments.query, arguments.key, arguments.value, arguments.out});
    return wrong.empty() ? launch(arguments) : wrong;
  });
}

template <auto kLaunch>
Error forward(cudaStream_t stream, AnyBuffer query, AnyBuffer key, AnyBuffer value,
              AnyBuffer additional_keys, AnyBuffer additional_values, AnyBuffer bias,
              AnyBuffer origins, Result out, Result lse, Entries length, Entries window,
              Entries stride, Entries dilation, Entries causal, Entries boundary, double scale,
              int64_t precision) {
  return run_forward({query, key, value, additional_keys, additional_values, bias, origins}, out,
                     lse, {length, window, stride, dilation, causal, boundary, scale}, precision,
                     [&](const Forward& arguments) { return kLaunch(arguments, stream); });
}

// The same by a plan, where there are its numbers and not a single one.
Error fused_forward_by_plan(cudaStream_t stream, AnyBuffer query, AnyBuffer key, AnyBuffer value,
                            AnyBuffer additional_keys, AnyBuffer additional_values, AnyBuffer bias,
                            AnyBuffer origins, Result out, Result lse, Entries length,
                            Entries window, Entries stride, Entries dilation, Entries causal,
                            Entries boundary, double scale, int64_t precision, Entries plan) {
  ForwardPlan asked;
  const bool planned = plan.size() != 1;
  if (planned && !read_plan(plan.begin(), plan.size(), asked))
    return Error::InvalidArgument("jax_na: plan should be 1 number or " +
                                  std::to_string(kPlanNumbers) + ", but has " +
                                  std::to_string(plan.size()));
  return run_forward({query, key, value, additional_keys, additional_values, bias, origins}, out,
                     lse, {length, window, stride, dilation, causal, boundary, scale}, precision,
                     [&](const Forward& arguments) {
                       return planned ? planned_forward(arguments, asked, stream)
                                      : fused_forward(arguments, stream);
                     });
}

// The same where the launch needs a workspace, which is one more result.
template <auto kLaunch, auto kWorkspace>
Error forward_in_workspace(cudaStream_t stream, AnyBuffer query, AnyBuffer key, AnyBuffer value,
                           AnyBuffer additional_keys, AnyBuffer additional_values, AnyBuffer bias,
                           AnyBuffer origins, Result out, Result lse, Result workspace,
                           Entries length, Entries window, Entries stride, Entries dilation,
                           Entries causal, Entries boundary, double scale, int64_t precision) {
  return run_forward(
      {query, key, value, additional_keys, additional_values, bias, origins}, out, lse,
      {length, window, stride, dilation, causal, boundary, scale}, precision,
      [&](const Forward& arguments) {
        const std::string wrong = check_workspace(*workspace, kWorkspace(arguments.problem));
        return wrong.empty() ? kLaunch(arguments, workspace->untyped_data(), stream) : wrong;
      });
}

template <auto kLaunch, auto kWorkspace>
Error backward(cudaStream_t stream, AnyBuffer query, AnyBuffer key, AnyBuffer value,
               AnyBuffer additional_keys, AnyBuffer additional_values, AnyBuffer bias,
               AnyBuffer origins, AnyBuffer out, AnyBuffer lse, AnyBuffer dout, AnyBuffer dlse,
               Result dquery, Result dkey, Result dvalue, Result dadditional_keys,
               Result dadditional_values, Result dbias, Result workspace, Entries length,
               Entries window, Entries stride, Entries dilation, Entries causal, Entries boundary,
               double scale, int64_t precision, int64_t deterministic) {
  Backward arguments{};
  if (Error e =
          read_backward({query, key, value, additional_keys, additional_values, bias, origins},
                        {out, lse, dout, dlse},
                        {*dquery, *dkey, *dvalue, *dadditional_keys, *dadditional_values, *dbias},
                        {length, window, stride, dilation, causal, boundary, scale},
                        Memory::kDevice, arguments.problem, arguments.stored);
      e.failure())
    return e;
  if (lse.element_count() == 0) {
    for (Result* result :
         {&dquery, &dkey, &dvalue, &dadditional_keys, &dadditional_values, &dbias}) {
      if ((*result)->size_bytes() == 0) continue;
      const cudaError_t status =
          cudaMemsetAsync((*result)->untyped_data(), 0, (*result)->size_bytes(), stream);
      if (status != cudaSuccess) return Error::Internal(cudaGetErrorString(status));
    }
    return Error::Success();
  }
  if (const std::string wrong = check_workspace(
          *workspace, kWorkspace(arguments.problem, arguments.stored, deterministic != 0));
      !wrong.empty())
    return Error::InvalidArgument("jax_na: " + wrong);
  arguments.precision = precision == 0 ? Precision::kDefault : Precision::kHighest;
  arguments.query = query.untyped_data();
  arguments.key = key.untyped_data();
  arguments.value = value.untyped_data();
  arguments.additional_keys = additional_keys.untyped_data();
  arguments.additional_values = additional_values.untyped_data();
  arguments.bias = bias.untyped_data();
  arguments.origins = static_cast<const int32_t*>(origins.untyped_data());
  arguments.out = out.untyped_data();
  arguments.lse = lse.untyped_data();
  arguments.dout = dout.untyped_data();
  arguments.dlse = dlse.untyped_data();
  arguments.dquery = dquery->untyped_data();
  arguments.dkey = dkey->untyped_data();
  arguments.dvalue = dvalue->untyped_data();
  arguments.dadditional_keys = dadditional_keys->untyped_data();
  arguments.dadditional_values = dadditional_values->untyped_data();
  arguments.dbias = dbias->untyped_data();
  arguments.workspace = workspace->untyped_data();
  return guarded([&] {
    const std::string wrong =
        check_alignment({arguments.query, arguments.key, arguments.value, arguments.out,
                         arguments.dout, arguments.dquery, arguments.dkey, arguments.dvalue});
    return wrong.empty() ? kLaunch(arguments, deterministic != 0, stream) : wrong;
  });
}

}  // namespace
}  // namespace jax_na::cuda

#define JAX_NA_DEFINE_INITIALIZE(name, load)                                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, jax_na::cuda::initialize<jax_na::cuda::load>, \
                                xla::ffi::Ffi::BindInitialize())

// Captured into CUDA graphs: the handlers neither allocate nor wait.
#define JAX_NA_DEFINE_FORWARD(name, launch)                                           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                      \
      name, (jax_na::cuda::forward<jax_na::cuda::launch>),                            \
      xla::ffi::Ffi::Bind()                                                           \
          .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()                              \
          .JAX_NA_INPUTS.JAX_NA_RESULTS.JAX_NA_ATTRIBUTES.Attr<int64_t>("precision"), \
      {xla::ffi::Traits::kCmdBufferCompatible})
#define JAX_NA_DEFINE_FORWARD_IN_WORKSPACE(name, launch, workspace)                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                 \
      name, (jax_na::cuda::forward_in_workspace<jax_na::cuda::launch, jax_na::cuda::workspace>), \
      xla::ffi::Ffi::Bind()                                                                      \
          .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()                                         \
          .JAX_NA_INPUTS.JAX_NA_RESULTS                                                          \
          .Ret<xla::ffi::AnyBuffer>() /* workspace */                                            \
          .JAX_NA_ATTRIBUTES.Attr<int64_t>("precision"),                                         \
      {xla::ffi::Traits::kCmdBufferCompatible})
#define JAX_NA_DEFINE_BACKWARD(name, launch, workspace)                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                     \
      name, (jax_na::cuda::backward<jax_na::cuda::launch, jax_na::cuda::workspace>), \
      xla::ffi::Ffi::Bind()                                                          \
          .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()                             \
          .JAX_NA_INPUTS.JAX_NA_BACKWARD_INPUTS.JAX_NA_GRADIENTS                     \
          .Ret<xla::ffi::AnyBuffer>() /* workspace */                                \
          .JAX_NA_ATTRIBUTES.Attr<int64_t>("precision")                              \
          .Attr<int64_t>("deterministic"),                                           \
      {xla::ffi::Traits::kCmdBufferCompatible})

JAX_NA_DEFINE_INITIALIZE(jax_na_cuda_fused_initialize, load_kernels);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_na_cuda_fused_forward, jax_na::cuda::fused_forward_by_plan,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::PlatformStream<cudaStream_t>>()
                                  .JAX_NA_INPUTS.JAX_NA_RESULTS.JAX_NA_ATTRIBUTES
                                  .Attr<int64_t>("precision")
                                  .Attr<xla::ffi::Span<const int64_t>>("plan"),
                              {xla::ffi::Traits::kCmdBufferCompatible});
JAX_NA_DEFINE_BACKWARD(jax_na_cuda_fused_backward, fused_backward, fused_workspace);

JAX_NA_DEFINE_INITIALIZE(jax_na_cuda_gemm_initialize, load_gemm_kernels);
JAX_NA_DEFINE_FORWARD_IN_WORKSPACE(jax_na_cuda_gemm_forward, gemm_forward, gemm_forward_workspace);
JAX_NA_DEFINE_BACKWARD(jax_na_cuda_gemm_backward, deterministic<jax_na::cuda::gemm_backward>,
                       gemm_workspace);

JAX_NA_DEFINE_INITIALIZE(jax_na_cuda_naive_initialize, load_naive_kernels);
JAX_NA_DEFINE_FORWARD(jax_na_cuda_naive_forward, naive_forward);
JAX_NA_DEFINE_BACKWARD(jax_na_cuda_naive_backward, deterministic<jax_na::cuda::naive_backward>,
                       naive_workspace);
