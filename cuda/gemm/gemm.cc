// The GEMM implementation: which launches make up its passes.
#include "cuda/gemm/gemm.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "cuda/additional_gradient.h"
#include "cuda/dispatch.h"
#include "cuda/gemm/by_type.h"
#include "cuda/gemm/instances.h"
#include "cuda/gemm/softmax.h"
#include "cuda/workspace.h"

namespace jax_na::cuda {
namespace {

// Bytes of a window-shaped tensor. Scores are float; what replaces them in the same place may be
// smaller.
int64_t window_bytes(const Problem& problem) {
  return align_workspace(problem.query_rows() * slots_of(problem) *
                         static_cast<int64_t>(sizeof(float)));
}

// Elements from one row to the next of a tensor of `stored` elements in place of floats.
int64_t pitch_of(const Problem& problem, Stored stored) {
  return slots_of(problem) * (stored == Stored::kFloat32 ? 1 : 2);
}

// A product sees features of one size.
Problem with_features(Problem problem, int features) {
  problem.head_dim = problem.value_dim = features;
  return problem;
}

// Whether the gradient of the bias needs more exact cotangents of the scores than products do.
bool keeps_unrounded(const Problem& problem, Stored stored) {
  return problem.bias_batch > 0 && stored != Stored::kFloat32;
}

std::string check(const Problem& problem, Stored stored) {
  if (stored == Stored::kFloat64) return "the GEMM kernels do not take float64";
  constexpr int64_t kMost = INT32_MAX / 2;
  if (slots_of(problem) > kMost || problem.query_tokens() > kMost || problem.bias_size() > kMost)
    return "the GEMM kernels take windows, tensors and biases of at most " + std::to_string(kMost) +
           " tokens";
  return "";
}

enum class Kind { kScores, kCombine, kInverse };

const std::vector<Instance>& instances_of(Kind kind, Stored stored) {
  const std::vector<Instance>* found = nullptr;
  by_type(stored, [&](auto element) {
    using T = decltype(element);
    found = kind == Kind::kScores    ? &scores_instances<T>()
            : kind == Kind::kCombine ? &combine_instances<T>()
                                     : &inverse_instances<T>();
    return cudaSuccess;
  });
  return *found;
}

// The launches of a pass, one after the other until one fails.
class Launches {
 public:
  Launches(Stored stored, Precision precision, cudaStream_t stream)
      : stored_(stored), precision_(precision), stream_(stream) {}

  void scores(const Scores& arguments) { product(Kind::kScores, arguments); }
  void combine(const Combination& arguments) { product(Kind::kCombine, arguments); }
  void inverse(const Combination& arguments) { product(Kind::kInverse, arguments); }

  template <typename Launch>
  void other(const char* name, Launch launch) {
    if (!wrong_.empty()) return;
    const cudaError_t status = launch(stream_);
    if (status != cudaSuccess)
      wrong_ = std::string("launching the ") + name + " kernel: " + cudaGetErrorString(status);
  }
  const std::string& wrong() const { return wrong_; }

 private:
  template <typename Arguments>
  void product(Kind kind, const Arguments& arguments) {
    if (!wrong_.empty()) return;
    const Pass pass = kind == Kind::kInverse ? Pass::kKeyGradient : Pass::kQueryGradient;
    wrong_ = dispatch(instances_of(kind, stored_), pass, arguments.problem, precision_, &arguments,
                      stream_);
  }

  Stored stored_;
  Precision precision_;
  cudaStream_t stream_;
  std::string wrong_;
};

}  // namespace

int64_t gemm_forward_workspace(const Problem& problem) {
  return window_bytes(problem);
}

std::string gemm_forward(const Forward& arguments, void* workspace, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  if (const std::string wrong = check(problem, arguments.stored); !wrong.empty()) return wrong;
  float* scores = static_cast<float*>(workspace);
  Launches launches(arguments.stored, arguments.precision, stream);
  launches.scores({with_features(problem, problem.head_dim), arguments.query, arguments.key,
                   arguments.additional_keys, arguments.bias, arguments.origins, scores});
  launches.other("softmax", [&](cudaStream_t s) { return softmax(arguments, scores, s); });
  launches.combine({with_features(problem, problem.value_dim), scores,
                    pitch_of(problem, arguments.stored), arguments.value,
                    arguments.additional_values, arguments.origins, 1.f, arguments.out});
  return launches.wrong();
}

int64_t gemm_backward_workspace(const Problem& problem, Stored stored) {
  return (keeps_unrounded(problem, stored) ? 3 : 2) * window_bytes(problem) +
         align_workspace(problem.query_rows() * static_cast<int64_t>(sizeof(float))) +
         align_workspace(additional_gradient_workspace(problem));
}

std::string gemm_backward(const Backward& arguments, cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  if (const std::string wrong = check(problem, arguments.stored); !wrong.empty()) return wrong;
  auto* memory = static_cast<char*>(arguments.workspace);
  auto take = [&](int64_t bytes) {
    auto* taken = reinterpret_cast<float*>(memory);
    memory += align_workspace(bytes);
    return taken;
  };
  float* weights = take(window_bytes(problem));
  float* dscores = take(window_bytes(problem));
  float* unrounded =
      keeps_unrounded(problem, arguments.stored) ? take(window_bytes(problem)) : nullptr;
  float* delta = take(problem.query_rows() * static_cast<int64_t>(sizeof(float)));
  float* sums = take(additional_gradient_workspace(problem));
  const Problem of_keys = with_features(problem, problem.head_dim);
  const Problem of_values = with_features(problem, problem.value_dim);
  Problem unscaled = of_values;
  unscaled.scale = 1;
  unscaled.bias_batch = 0;
  const int64_t pitch = pitch_of(problem, arguments.stored);
  const float scale = static_cast<float>(problem.scale);
  const int32_t* origins = arguments.origins;

  Launches launches(arguments.stored, arguments.precision, stream);
  launches.scores({of_keys, arguments.query, arguments.key, arguments.additional_keys,
                   arguments.bias, origins, weights});
  launches.scores({unscaled, arguments.dout, arguments.value, arguments.additional_values, nullptr,
                   origins, dscores});
  launches.other("softmax gradient", [&](cudaStream_t s) {
    return softmax_gradient(arguments, weights, dscores, delta, unrounded, s);
  });
  launches.combine({of_keys, dscores, pitch, arguments.key, arguments.additional_keys, origins,
                    scale, arguments.dquery});
  launches.inverse(
      {of_keys, dscores, pitch, arguments.query, nullptr, origins, scale, arguments.dkey});
  launches.inverse(
      {of_values, weights, pitch, arguments.dout, nullptr, origins, 1.f, arguments.dvalue});
  if (problem.bias_batch > 0)
    launches.other("bias gradient", [&](cudaStream_t s) {
      return bias_gradient(arguments, unrounded ? unrounded : dscores, s);
    });
  if (problem.additional > 0)
    launches.other("additional gradient",
                   [&](cudaStream_t s) { return additional_gradient(arguments, delta, sums, s); });
  return launches.wrong();
}

std::string load_gemm_kernels() {
  for (Stored stored : {Stored::kFloat32, Stored::kBFloat16, Stored::kFloat16}) {
    for (Kind kind : {Kind::kScores, Kind::kCombine, Kind::kInverse}) {
      const std::string wrong = load(instances_of(kind, stored));
      if (!wrong.empty()) return wrong;
    }
  }
  for (auto load_others : {load_softmax, load_bias_gradient}) {
    const cudaError_t status = load_others();
    if (status != cudaSuccess)
      return std::string("loading a kernel of the GEMM implementation: ") +
             cudaGetErrorString(status);
  }
  return "";
}

}  // namespace jax_na::cuda
