#include "cuda/hopper/backward/around.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>

#include "cuda/hopper/backward/maps.h"
#include "cuda/hopper/backward/pairs.h"
#include "cuda/hopper/backward/sums.h"
#include "cuda/place_axis.h"
#include "cuda/ptx/lane.h"
#include "cuda/ptx/launch.h"
#include "cuda/tile/element.h"

namespace jax_na::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;  // features: 16 bytes

// A thread's place: the features from 8 * chunk on of row `row`, and of the same head and token
// where heads come before tokens.
struct Place {
  int64_t row;
  int64_t by_head;
  int chunk;
};

// There are kLanes threads for each row, a power of two; false for those that have no features.
template <int kLanes>
__device__ __forceinline__ bool find_place(const Problem& problem, Place& place) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t tokens = problem.query_tokens();
  place.row = index / kLanes;
  place.chunk = static_cast<int>(index - place.row * kLanes);
  const int64_t token = place.row / problem.heads;
  const int head = static_cast<int>(place.row - token * problem.heads);
  const int64_t entry = token / tokens;
  place.by_head = (entry * problem.heads + head) * tokens + (token - entry * tokens);
  return entry < problem.batch && place.chunk * kPerThread < problem.head_dim;
}

// Describes the `index`th box, by all lanes of a warp; nothing where there are not so many.
__device__ inline void describe_box(const KeyBoxes& boxes, const Problem& problem,
                                    const int32_t* origins, const HopperPlan& plan, int index) {
  int a = 0;
  for (; a < kMaxRank; ++a) {
    const int count = KeyBoxes::of_axis(problem, plan, a);
    if (index < count) break;
    index -= count;
  }
  if (a == kMaxRank) return;
  const int of_phase = KeyBoxes::of_phase(problem, plan, a);
  const int phase = index / of_phase, within = index % of_phase;
  const int group = within / plan.boxes[a], place = within % plan.boxes[a];
  KeyBox box{};
  make_axis_item<true>(box.axis, phase_of(place_axis(problem, origins, a), plan.phases[a], phase),
                       plan, a, group, place * plan.box(a));
  if (a == kMaxRank - 1 && box.axis.rows > 0) box.pairs = tile_pairs(box.axis, plan);
  uint32_t* to = boxes.first(problem, plan, a, phase) + int64_t{within} * boxes.stride(plan, a);
  // Whoever reads it reads words, and some have padding.
  for (int word = ptx::lane(); word < kKeyBoxWords; word += 32) to[word] = 0;
  __syncwarp();
  if (ptx::lane() == 0) memcpy(to, &box, sizeof box);
  for (int at = ptx::lane(); at < plan.box(a); at += 32) {
    const Interval seen = box.axis.rows > 0 ? box.axis.seen<true>(at) : Interval{0, 0};
    memcpy(to + kKeyBoxWords + 2 * at, &seen, sizeof seen);
  }
}

// The first blocks describe boxes, a warp one each; the others have a part of the zeros each.
constexpr int kBoxesOfBlock = kThreads / 32;
constexpr int kZerosOfBlock = 8 * 16 * kThreads;  // bytes

__global__ void __launch_bounds__(kThreads)
    beginning_kernel(const __grid_constant__ Problem problem, const int32_t* origins,
                     const __grid_constant__ HopperPlan plan, const KeyBoxes boxes,
                     int describing_blocks, unsigned char* zeros, int64_t bytes) {
  const int block = static_cast<int>(blockIdx.x);
  if (block < describing_blocks) {
    describe_box(boxes, problem, origins, plan,
                 block * kBoxesOfBlock + static_cast<int>(threadIdx.x) / 32);
    return;
  }
  const int64_t first = int64_t{block - describing_blocks} * kZerosOfBlock;
#pragma unroll
  for (int i = 0; i < kZerosOfBlock / (16 * kThreads); ++i) {
    const int64_t at = first + 16 * (i * kThreads + static_cast<int>(threadIdx.x));
    if (at < bytes) *reinterpret_cast<uint4*>(zeros + at) = make_uint4(0, 0, 0, 0);
  }
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    statistics_kernel(const __grid_constant__ Backward arguments, float2* statistics) {
  Place place;
  const bool exists = find_place<kLanes>(arguments.problem, place);
  float sum = 0.f;
  if (exists) {
    const int64_t at = place.row * (arguments.problem.head_dim / kPerThread) + place.chunk;
    const uint4 a = static_cast<const uint4*>(arguments.out)[at];
    const uint4 b = static_cast<const uint4*>(arguments.dout)[at];
    sum = dot<T>(a.x, b.x) + dot<T>(a.y, b.y) + dot<T>(a.z, b.z) + dot<T>(a.w, b.w);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (!exists || place.chunk != 0) return;
  const float lse = static_cast<const float*>(arguments.lse)[place.row];
  statistics[place.by_head] =
      make_float2(lse == -INFINITY ? INFINITY : lse * 1.4426950408889634f,
                  sum - static_cast<const float*>(arguments.dlse)[place.row]);
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    rounding_kernel(const __grid_constant__ Backward arguments, const float* sums) {
  Place place;
  const int head_dim = arguments.problem.head_dim;
  if (!find_place<kLanes>(arguments.problem, place)) return;
  const float* from = sums + place.by_head * sum_features(head_dim);
  const float scale = static_cast<float>(arguments.problem.scale);
  uint32_t words[kPerThread / 2];
#pragma unroll
  for (int i = 0; i < kPerThread / 2; ++i) {
    const float2 pair =
        *reinterpret_cast<const float2*>(from + sum_place(kPerThread * place.chunk + 2 * i));
    words[i] = pack(pair.x * scale, pair.y * scale, T());
  }
  static_cast<uint4*>(arguments.dquery)[place.row * (head_dim / kPerThread) + place.chunk] =
      make_uint4(words[0], words[1], words[2], words[3]);
}

// A thread for each element of the gradients of additional keys, which adds up its parts in order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    additional_rounding_kernel(const __grid_constant__ Backward arguments, const float* sums,
                               int parts, int64_t elements) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= elements) return;
  float key = 0.f, value = 0.f;
  for (int part = 0; part < parts; ++part) {
    key += sums[2 * elements * part + i];
    value += sums[2 * elements * part + elements + i];
  }
  static_cast<T*>(arguments.dadditional_keys)[i] =
      T(key * static_cast<float>(arguments.problem.scale));
  static_cast<T*>(arguments.dadditional_values)[i] = T(value);
}

template <int kLanes, typename Launch>
cudaError_t with_lanes(Stored stored, Launch launch) {
  return stored == Stored::kFloat16
             ? launch(statistics_kernel<__half, kLanes>, rounding_kernel<__half, kLanes>)
             : launch(statistics_kernel<__nv_bfloat16, kLanes>,
                      rounding_kernel<__nv_bfloat16, kLanes>);
}

int lanes_of(const Problem& problem) {
  int lanes = 4;
  while (lanes * kPerThread < problem.head_dim) lanes *= 2;
  return lanes;
}

// Calls `launch` with the kernels of the problem.
template <typename Launch>
cudaError_t with_kernels(const Backward& arguments, Launch launch) {
  switch (lanes_of(arguments.problem)) {
    case 4:
      return with_lanes<4>(arguments.stored, launch);
    case 8:
      return with_lanes<8>(arguments.stored, launch);
    case 16:
      return with_lanes<16>(arguments.stored, launch);
    case 32:
      return with_lanes<32>(arguments.stored, launch);
    default:
      return cudaErrorInvalidValue;
  }
}

dim3 grid_of(const Problem& problem) {
  const int64_t lanes = problem.query_rows() * lanes_of(problem);
  return dim3(static_cast<unsigned>((lanes + kThreads - 1) / kThreads));
}

}  // namespace

cudaError_t launch_beginning(const Backward& arguments, const HopperPlan& plan,
                             const KeyBoxes& boxes, void* zeros, int64_t bytes,
                             cudaStream_t stream) {
  int64_t described = 0;
  for (int a = 0; a < kMaxRank; ++a) described += KeyBoxes::of_axis(arguments.problem, plan, a);
  const int64_t describing = (described + kBoxesOfBlock - 1) / kBoxesOfBlock;
  const int64_t zeroing = (bytes + kZerosOfBlock - 1) / kZerosOfBlock;
  return ptx::launch(beginning_kernel, dim3(static_cast<unsigned>(describing + zeroing)),
                     dim3(kThreads), 0, stream, arguments.problem, arguments.origins, plan, boxes,
                     static_cast<int>(describing), static_cast<unsigned char*>(zeros), bytes);
}

cudaError_t launch_statistics(const Backward& arguments, float2* statistics, cudaStream_t stream) {
  return with_kernels(arguments, [&](auto kernel, auto) {
    return ptx::launch(kernel, grid_of(arguments.problem), dim3(kThreads), 0, stream, arguments,
                       statistics);
  });
}

cudaError_t launch_additional_rounding(const Backward& arguments, const float* sums, int parts,
                                       cudaStream_t stream) {
  const Problem& problem = arguments.problem;
  const int64_t elements = problem.batch * problem.additional * problem.kv_heads * problem.head_dim;
  const dim3 grid(static_cast<unsigned>((elements + kThreads - 1) / kThreads));
  auto* kernel = arguments.stored == Stored::kFloat16 ? additional_rounding_kernel<__half>
                                                      : additional_rounding_kernel<__nv_bfloat16>;
  return ptx::launch(kernel, grid, dim3(kThreads), 0, stream, arguments, sums, parts, elements);
}

cudaError_t launch_rounding(const Backward& arguments, const float* sums, cudaStream_t stream) {
  return with_kernels(arguments, [&](auto, auto kernel) {
    return ptx::launch(kernel, grid_of(arguments.problem), dim3(kThreads), 0, stream, arguments,
                       sums);
  });
}

}  // namespace jax_na::cuda
