// The CPU kernels of one instruction set: compiled once for each, with JAX_NA_ISA naming it.
#include "cpu/kernels.h"

#include <type_traits>

#include "cpu/forward.h"
#include "cpu/key_gradient.h"
#include "cpu/query_gradient.h"

namespace jax_na::JAX_NA_ISA {
namespace {

constexpr int64_t kLine = 64;

// Runs `call` with the number of rows of the plan's register tile as a constant.
template <typename Call>
auto with_rows(const Plan& plan, Call call) {
  if (plan.rows == 2) return call(std::integral_constant<int, 2>());
  return call(std::integral_constant<int, 4>());
}

template <typename Stored>
struct Table {
  using T = Compute<Stored>;
  static constexpr Codec<T> kCodec = codec_of<Stored>();

  static Kernel<ForwardArgs> forward() {
    return {[](const ForwardArgs& a) {
              return a.plan->tiles() * a.problem->batch * a.problem->kv_heads;
            },
            [](const ForwardArgs& a) {
              return with_rows(*a.plan, [&](auto rows) {
                return ForwardScratch<T, decltype(rows)::value>(*a.problem, *a.plan, nullptr).bytes;
              });
            },
            [](const ForwardArgs& a, int64_t task, std::byte* scratch) {
              with_rows(*a.plan, [&](auto rows) {
                forward_tile<T, decltype(rows)::value>(a, kCodec, task, scratch);
              });
            }};
  }
  static Kernel<BackwardArgs> delta() {
    return {
        [](const BackwardArgs& a) {
          return a.problem->batch * a.problem->axes[0].query_count * a.problem->axes[1].query_count;
        },
        [](const BackwardArgs&) { return kLine; },
        [](const BackwardArgs& a, int64_t task, std::byte*) { delta_line<T>(a, kCodec, task); }};
  }
  static Kernel<BackwardArgs> query_gradient() {
    return {[](const BackwardArgs& a) { return a.parts * a.problem->batch * a.problem->kv_heads; },
            [](const BackwardArgs& a) {
              return with_rows(*a.plan, [&](auto rows) {
                return QueryGradientScratch<T, decltype(rows)::value>(*a.problem, *a.plan, nullptr)
                    .bytes;
              });
            },
            [](const BackwardArgs& a, int64_t task, std::byte* scratch) {
              with_rows(*a.plan, [&](auto rows) {
                query_gradient_part<T, decltype(rows)::value>(a, kCodec, task, scratch);
              });
            }};
  }
  static Kernel<BackwardArgs> key_gradient() {
    return {
        [](const BackwardArgs& a) {
          return a.plan->tiles() * a.problem->batch * a.problem->kv_heads;
        },
        [](const BackwardArgs& a) {
          return with_rows(*a.plan, [&](auto rows) {
            return KeyGradientScratch<T, decltype(rows)::value>(*a.problem, *a.plan, nullptr).bytes;
          });
        },
        [](const BackwardArgs& a, int64_t task, std::byte* scratch) {
          with_rows(*a.plan, [&](auto rows) {
            key_gradient_tile<T, decltype(rows)::value>(a, kCodec, task, scratch);
          });
        }};
  }
  static Kernel<BackwardArgs> reduction() {
    return {[](const BackwardArgs& a) { return a.problem->batch * a.problem->kv_heads; },
            [](const BackwardArgs&) { return kLine; },
            [](const BackwardArgs& a, int64_t task, std::byte* scratch) {
              reduce_parts<T>(a, kCodec, task, scratch);
            }};
  }
};

#define JAX_NA_STRINGIFY_(x) #x
#define JAX_NA_STRINGIFY(x) JAX_NA_STRINGIFY_(x)

}  // namespace

const Kernels& table() {
  static const Kernels kTable = {
      JAX_NA_STRINGIFY(JAX_NA_ISA),
      kVectorBytes,
      {Table<float>::forward(), Table<double>::forward(), Table<BFloat16>::forward(),
       Table<Float16>::forward()},
      {Table<float>::delta(), Table<double>::delta(), Table<BFloat16>::delta(),
       Table<Float16>::delta()},
      {Table<float>::query_gradient(), Table<double>::query_gradient(),
       Table<BFloat16>::query_gradient(), Table<Float16>::query_gradient()},
      {Table<float>::key_gradient(), Table<double>::key_gradient(), Table<BFloat16>::key_gradient(),
       Table<Float16>::key_gradient()},
      {Table<float>::reduction(), Table<double>::reduction(), Table<BFloat16>::reduction(),
       Table<Float16>::reduction()},
  };
  return kTable;
}

}  // namespace jax_na::JAX_NA_ISA
