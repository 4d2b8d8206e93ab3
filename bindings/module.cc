// The Python module jax_na._core: the custom calls, the geometry and the plans.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "core/plan.h"
#include "cpu/handlers.h"
#include "cpu/kernels.h"
#ifdef JAX_NA_CUDA
#include "cuda/backward_choice.h"
#include "cuda/device.h"
#include "cuda/forward_choice.h"
#include "cuda/gemm/gemm.h"
#include "cuda/handlers.h"
#include "cuda/launch.h"
#include "cuda/naive/naive.h"
#include "cuda/naive/unfused.h"
#endif

namespace nb = nanobind;

namespace {

using jax_na::Axis;
using jax_na::Boundary;
using jax_na::Interval;
using jax_na::Rule;
using Bounds = std::pair<std::vector<int64_t>, std::vector<int64_t>>;
using Triple = std::array<int, jax_na::kMaxRank>;

Boundary boundary_of(const std::string& name) {
  if (name == "shift") return Boundary::kShift;
  if (name == "clip") return Boundary::kClip;
  if (name == "wrap") return Boundary::kWrap;
  throw std::invalid_argument("boundary should be one of 'shift', 'clip', 'wrap', but got '" +
                              name + "'");
}

Axis axis_of(int length, int window, int stride, int dilation, bool causal,
             const std::string& boundary) {
  if (length < 1 || dilation < 1 || dilation > length || window < 1 || window > length / dilation ||
      stride < 1 || stride > window)
    throw std::invalid_argument("length, kernel_size, stride and dilation do not fit each other");
  Axis axis;
  axis.length = axis.query_count = axis.key_count = length;
  axis.window = window;
  axis.stride = stride;
  axis.dilation = dilation;
  axis.causal = causal;
  axis.boundary = boundary_of(boundary);
  if (axis.boundary == Boundary::kWrap && (causal || length % dilation != 0))
    throw std::invalid_argument(
        "an axis that wraps cannot be causal, and its dilation should divide its length");
  return axis;
}

// The interval of every token of an axis, by `find(rule, position)`.
template <typename Find>
Bounds intervals(const Axis& axis, Find find) {
  Bounds bounds;
  for (int token = 0; token < axis.length; ++token) {
    Interval interval = find(axis.rule(token % axis.dilation), token / axis.dilation);
    bounds.first.push_back(interval.begin);
    bounds.second.push_back(interval.end);
  }
  return bounds;
}

jax_na::Problem problem_of(int64_t batch, int heads, int kv_heads, int head_dim, int value_dim,
                           int additional, const Triple& length, const Triple& window,
                           const Triple& stride, const Triple& dilation,
                           const std::array<bool, jax_na::kMaxRank>& causal,
                           const std::array<std::string, jax_na::kMaxRank>& boundary,
                           int bias_batch) {
  if (batch < 1 || kv_heads < 1 || heads < kv_heads || head_dim < 1 || value_dim < 1 ||
      additional < 0 || bias_batch < 0)
    throw std::invalid_argument("the sizes of the problem should be positive");
  jax_na::Problem problem;
  problem.batch = batch;
  problem.heads = heads;
  problem.kv_heads = kv_heads;
  problem.head_dim = head_dim;
  problem.value_dim = value_dim;
  problem.additional = additional;
  problem.bias_batch = bias_batch;
  for (int a = 0; a < jax_na::kMaxRank; ++a)
    problem.axes[a] = axis_of(length[a], window[a], stride[a], dilation[a], causal[a], boundary[a]);
  return problem;
}

// The problem on slabs of every axis, of so many queries and keys.
jax_na::Problem slab_of(jax_na::Problem problem, const Triple& queries, const Triple& keys) {
  for (int a = 0; a < jax_na::kMaxRank; ++a) {
    Axis& axis = problem.axes[a];
    const int most_keys = axis.boundary == Boundary::kWrap ? 3 * axis.length : axis.length;
    if (queries[a] < 1 || queries[a] > axis.length || keys[a] < 1 || keys[a] > most_keys)
      throw std::invalid_argument("a slab should have queries and keys of its axis");
    axis.query_count = queries[a];
    axis.key_count = keys[a];
  }
  return problem;
}

jax_na::Plan plan_of(const std::string& pass, const jax_na::Problem& problem, int bytes) {
  if (bytes != 4 && bytes != 8) throw std::invalid_argument("bytes should be 4 or 8");
  jax_na::Pass which = jax_na::Pass::kForward;
  if (pass == "query_gradient")
    which = jax_na::Pass::kQueryGradient;
  else if (pass == "key_gradient")
    which = jax_na::Pass::kKeyGradient;
  else if (pass != "forward")
    throw std::invalid_argument(
        "pass should be 'forward', 'query_gradient' or 'key_gradient', but got '" + pass + "'");
  return jax_na::make_cpu_plan(problem, which, jax_na::kernels().vector_bytes / bytes, bytes);
}

// Dictionary of a custom call's stages.
nb::dict stages(XLA_FFI_Handler* execute, XLA_FFI_Handler* initialize) {
  nb::dict all;
  all["execute"] = nb::capsule(reinterpret_cast<void*>(execute));
  if (initialize != nullptr) all["initialize"] = nb::capsule(reinterpret_cast<void*>(initialize));
  return all;
}

#ifdef JAX_NA_CUDA
jax_na::Stored stored_of(const std::string& dtype) {
  return dtype == "bfloat16"  ? jax_na::Stored::kBFloat16
         : dtype == "float16" ? jax_na::Stored::kFloat16
                              : jax_na::Stored::kFloat32;
}

jax_na::cuda::Precision precision_of(bool highest) {
  return highest ? jax_na::cuda::Precision::kHighest : jax_na::cuda::Precision::kDefault;
}

// The current GPU, or a Hopper GPU with so many multiprocessors.
jax_na::cuda::Device device_of(int multiprocessors) {
  if (multiprocessors > 0) return jax_na::cuda::hopper_device(multiprocessors);
  jax_na::cuda::Device device;
  const cudaError_t status = jax_na::cuda::current_device(device);
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("there is no GPU to plan for: ") +
                             cudaGetErrorString(status));
  return device;
}
#endif

std::vector<std::vector<Triple>> spans_of(const jax_na::Plan& plan) {
  std::vector<std::vector<Triple>> all;
  for (const auto& spans : plan.spans) {
    all.emplace_back();
    for (const jax_na::Span& span : spans)
      all.back().push_back({span.group, span.begin, span.count});
  }
  return all;
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "Compiled part of jax_na: custom calls, geometry and plans.";
  m.attr("ffi_api_version") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  m.attr("cpu_instruction_set") = jax_na::kernels().instruction_set;
  m.def(
      "handlers",
      [](const std::string& platform) {
        nb::dict handlers;
        if (platform == "cpu") {
          handlers["jax_na_cpu_forward"] = stages(jax_na_cpu_forward, nullptr);
          handlers["jax_na_cpu_backward"] = stages(jax_na_cpu_backward, nullptr);
        }
#ifdef JAX_NA_CUDA
        if (platform == "cuda") {
          handlers["jax_na_cuda_fused_forward"] =
              stages(jax_na_cuda_fused_forward, jax_na_cuda_fused_initialize);
          handlers["jax_na_cuda_fused_backward"] =
              stages(jax_na_cuda_fused_backward, jax_na_cuda_fused_initialize);
          handlers["jax_na_cuda_gemm_forward"] =
              stages(jax_na_cuda_gemm_forward, jax_na_cuda_gemm_initialize);
          handlers["jax_na_cuda_gemm_backward"] =
              stages(jax_na_cuda_gemm_backward, jax_na_cuda_gemm_initialize);
          handlers["jax_na_cuda_naive_forward"] =
              stages(jax_na_cuda_naive_forward, jax_na_cuda_naive_initialize);
          handlers["jax_na_cuda_naive_backward"] =
              stages(jax_na_cuda_naive_backward, jax_na_cuda_naive_initialize);
          handlers["jax_na_cuda_unfused_products"] =
              stages(jax_na_cuda_unfused_products, jax_na_cuda_unfused_initialize);
          handlers["jax_na_cuda_unfused_sums"] =
              stages(jax_na_cuda_unfused_sums, jax_na_cuda_unfused_initialize);
          handlers["jax_na_cuda_unfused_transposed"] =
              stages(jax_na_cuda_unfused_transposed, jax_na_cuda_unfused_initialize);
          handlers["jax_na_cuda_unfused_bias_sums"] =
              stages(jax_na_cuda_unfused_bias_sums, jax_na_cuda_unfused_initialize);
        }
#endif
        return handlers;
      },
      nb::arg("platform"), "Custom-call targets of a platform, by name and stage.");

  m.def(
      "windows",
      [](int length, int kernel_size, int stride, int dilation, bool is_causal,
         const std::string& boundary) {
        return intervals(axis_of(length, kernel_size, stride, dilation, is_causal, boundary),
                         [](const Rule& rule, int position) { return rule.window_of(position); });
      },
      nb::arg("length"), nb::arg("kernel_size"), nb::arg("stride"), nb::arg("dilation"),
      nb::arg("is_causal"), nb::arg("boundary"),
      "First and one past the last key of each token, as positions of its dilation group.");
  m.def(
      "inverse",
      [](int length, int kernel_size, int stride, int dilation, bool is_causal,
         const std::string& boundary) {
        return intervals(axis_of(length, kernel_size, stride, dilation, is_causal, boundary),
                         [](const Rule& rule, int position) { return rule.queries_of(position); });
      },
      nb::arg("length"), nb::arg("kernel_size"), nb::arg("stride"), nb::arg("dilation"),
      nb::arg("is_causal"), nb::arg("boundary"),
      "First and one past the last query that sees each token, as positions of its dilation "
      "group.");
  m.def(
      "box_bounds",
      [](int length, int kernel_size, int stride, bool is_causal, const std::string& boundary,
         int begin, int end) {
        Rule rule = axis_of(length, kernel_size, stride, 1, is_causal, boundary).rule(0);
        Interval box{begin, end};
        std::vector<std::pair<int, int>> bounds;
        for (Interval i : {rule.window_union(box), rule.window_intersection(box),
                           rule.queries_union(box), rule.queries_intersection(box)})
          bounds.emplace_back(i.begin, i.end);
        return bounds;
      },
      nb::arg("length"), nb::arg("kernel_size"), nb::arg("stride"), nb::arg("is_causal"),
      nb::arg("boundary"), nb::arg("begin"), nb::arg("end"),
      "Union and intersection of the windows of positions [begin, end), then of the queries that "
      "see them.");

  nb::class_<jax_na::Plan>(m, "Plan", "How a CPU kernel cuts a problem.")
      .def_prop_ro("box",
                   [](const jax_na::Plan& p) { return Triple{p.box[0], p.box[1], p.box[2]}; })
      .def_prop_ro("spans", spans_of)
      .def_prop_ro("tiles", &jax_na::Plan::tiles)
      .def_ro("rows", &jax_na::Plan::rows)
      .def_ro("lanes", &jax_na::Plan::lanes)
      .def_ro("chunk_lines", &jax_na::Plan::chunk_lines)
      .def_ro("chunk_columns", &jax_na::Plan::chunk_columns)
      .def_ro("useful", &jax_na::Plan::useful)
      .def_ro("visited", &jax_na::Plan::visited)
      .def_ro("packed", &jax_na::Plan::packed)
      .def("__str__", &jax_na::Plan::str);
  nb::class_<jax_na::Problem>(m, "Problem", "Sizes and axes (z, y, x) of an attention problem.")
      .def_static("of", problem_of, nb::arg("batch"), nb::arg("heads"), nb::arg("kv_heads"),
                  nb::arg("head_dim"), nb::arg("value_dim"), nb::arg("additional"),
                  nb::arg("length"), nb::arg("kernel_size"), nb::arg("stride"), nb::arg("dilation"),
                  nb::arg("is_causal"), nb::arg("boundary"), nb::arg("bias_batch") = 0)
      .def("slab", slab_of, nb::arg("queries"), nb::arg("keys"));
  m.def("cpu_plan", plan_of, nb::arg("which"), nb::arg("problem"), nb::arg("bytes"),
        "The plan of one pass of the CPU kernels.");
#ifdef JAX_NA_CUDA
  m.attr("has_cuda") = true;
  m.def(
      "cuda_fused_backward_workspace",
      [](const jax_na::Problem& problem, const std::string& dtype, bool deterministic) {
        return jax_na::cuda::fused_backward_workspace(problem, stored_of(dtype), deterministic);
      },
      nb::arg("problem"), nb::arg("dtype"), nb::arg("deterministic"),
      "Bytes of scratch space that the fused CUDA backward pass needs.");
  m.def(
      "cuda_fused_backward_choice",
      [](const jax_na::Problem& problem, const std::string& dtype, bool highest,
         int multiprocessors, bool deterministic) {
        return jax_na::cuda::explain(
            jax_na::cuda::choose_backward(problem, stored_of(dtype), precision_of(highest),
                                          device_of(multiprocessors), deterministic));
      },
      nb::arg("problem"), nb::arg("dtype"), nb::arg("highest"), nb::arg("multiprocessors"),
      nb::arg("deterministic"),
      "Which kernels run the fused backward pass, how they cut the problem, and what they are "
      "preferred to.");
  m.def("cuda_gemm_forward_workspace", jax_na::cuda::gemm_forward_workspace, nb::arg("problem"),
        "Bytes of scratch space that the forward pass by CUDA matrix products needs.");
  m.def(
      "cuda_gemm_backward_workspace",
      [](const jax_na::Problem& problem, const std::string& dtype) {
        return jax_na::cuda::gemm_backward_workspace(problem, stored_of(dtype));
      },
      nb::arg("problem"), nb::arg("dtype"),
      "Bytes of scratch space that the backward pass by CUDA matrix products needs.");
  m.def(
      "cuda_naive_backward_workspace",
      [](const jax_na::Problem& problem, bool float64) {
        return jax_na::cuda::naive_backward_workspace(
            problem, float64 ? jax_na::Stored::kFloat64 : jax_na::Stored::kFloat32);
      },
      nb::arg("problem"), nb::arg("float64"),
      "Bytes of scratch space that the naive CUDA backward pass needs.");
  m.def(
      "cuda_unfused_workspaces",
      [](const jax_na::Problem& problem, bool float64) {
        const auto stored = float64 ? jax_na::Stored::kFloat64 : jax_na::Stored::kFloat32;
        return std::make_pair(jax_na::cuda::unfused_transposed_workspace(problem, stored),
                              jax_na::cuda::unfused_bias_sums_workspace(problem, stored));
      },
      nb::arg("problem"), nb::arg("float64"),
      "Bytes of scratch space that the custom calls \"transposed\" and \"bias_sums\" need.");
  nb::class_<jax_na::cuda::ForwardPlan>(m, "CudaForwardPlan",
                                        "How the fused CUDA forward pass cuts a problem.")
      .def_prop_ro("numbers", jax_na::cuda::numbers_of)
      .def_ro("hopper", &jax_na::cuda::ForwardPlan::hopper)
      .def_ro("clocks", &jax_na::cuda::ForwardPlan::clocks)
      .def_prop_ro("items", [](const jax_na::cuda::ForwardPlan& p) { return p.plan.items; })
      .def_prop_ro("tiles", [](const jax_na::cuda::ForwardPlan& p) { return p.plan.tiles; })
      .def_prop_ro("masked_tiles",
                   [](const jax_na::cuda::ForwardPlan& p) { return p.plan.masked_tiles; })
      .def("__str__", [](const jax_na::cuda::ForwardPlan& p) { return p.text; });
  m.def(
      "cuda_forward_plans",
      [](const jax_na::Problem& problem, const std::string& dtype, bool highest,
         int multiprocessors, int most) {
        jax_na::cuda::ForwardPlans plans = jax_na::cuda::forward_plans(
            problem, stored_of(dtype), precision_of(highest), device_of(multiprocessors), most);
        return std::make_tuple(plans.ranked, plans.refusal, plans.hopper_refusal);
      },
      nb::arg("problem"), nb::arg("dtype"), nb::arg("highest"), nb::arg("multiprocessors"),
      nb::arg("most"),
      "The plans of the fused forward pass in the order of what they are predicted to take, and "
      "why there is none of the kernels for every GPU, or for Hopper GPUs.");
  m.def(
      "cuda_complete_forward_plan",
      [](const jax_na::Problem& problem, const std::string& dtype, bool highest,
         int multiprocessors, const std::vector<int64_t>& numbers) {
        jax_na::cuda::ForwardPlan plan;
        if (!jax_na::cuda::read_plan(numbers.data(), numbers.size(), plan))
          throw std::invalid_argument("plan should be " +
                                      std::to_string(jax_na::cuda::kPlanNumbers) +
                                      " numbers, but has " + std::to_string(numbers.size()));
        const std::string wrong = jax_na::cuda::complete_forward_plan(
            problem, stored_of(dtype), precision_of(highest), device_of(multiprocessors), plan);
        if (!wrong.empty()) throw std::invalid_argument(wrong);
        return plan;
      },
      nb::arg("problem"), nb::arg("dtype"), nb::arg("highest"), nb::arg("multiprocessors"),
      nb::arg("numbers"), "The plan that the numbers say, with what is predicted of it.");
#else
  m.attr("has_cuda") = false;
#endif
}
