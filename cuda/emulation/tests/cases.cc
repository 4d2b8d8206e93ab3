#include "cuda/emulation/tests/cases.h"

#include <cmath>
#include <initializer_list>
#include <random>

namespace jax_na::emulation {
namespace {

Axis axis(int length, int window, int stride = 1, int dilation = 1,
          Boundary boundary = Boundary::kShift, bool causal = false) {
  Axis made;
  made.length = made.query_count = made.key_count = length;
  made.window = window;
  made.stride = stride;
  made.dilation = dilation;
  made.boundary = boundary;
  made.causal = causal;
  return made;
}

// The part of an axis that tensors hold.
Axis slab(Axis of, int query_origin, int query_count, int key_origin, int key_count) {
  of.query_origin = query_origin;
  of.query_count = query_count;
  of.key_origin = key_origin;
  of.key_count = key_count;
  return of;
}

// One batch entry, two heads of 32 features.
Problem problem(std::initializer_list<Axis> axes) {
  Problem made;
  made.batch = 1;
  made.heads = made.kv_heads = 2;
  made.head_dim = made.value_dim = 32;
  made.scale = 1 / std::sqrt(32.0);
  int at = kMaxRank - static_cast<int>(axes.size());
  for (const Axis& given : axes) made.axes[at++] = given;
  return made;
}

template <typename Change>
Problem with(Problem made, Change change) {
  change(made);
  return made;
}

Problem features(Problem made, int head_dim, int value_dim) {
  made.head_dim = head_dim;
  made.value_dim = value_dim;
  made.heads = made.kv_heads = 1;
  made.scale = 1 / std::sqrt(static_cast<double>(head_dim));
  return made;
}

}  // namespace

std::vector<Case> cases() {
  const Boundary shift = Boundary::kShift, clip = Boundary::kClip, wrap = Boundary::kWrap;
  const Problem plane = problem({axis(9, 5), axis(11, 3)});
  const Problem line = problem({axis(70, 9)});
  return {
      {"rank 1", problem({axis(150, 13)})},
      {"rank 2", problem({axis(13, 5), axis(19, 7)})},
      {"rank 3", problem({axis(5, 3), axis(6, 3), axis(7, 5)})},
      {"a single token", problem({axis(1, 1)})},
      {"clip", problem({axis(13, 5, 1, 1, clip), axis(11, 4, 1, 1, clip)})},
      {"wrap", problem({axis(13, 5, 1, 1, wrap), axis(11, 11, 1, 1, wrap)})},
      {"causal", problem({axis(90, 17, 1, 1, shift, true)})},
      {"causal on one axis", problem({axis(5, 2, 1, 1, clip, true), axis(9, 3), axis(8, 4)})},
      {"stride", problem({axis(14, 6, 4), axis(13, 5, 5)})},
      {"stride, clip and wrap", problem({axis(14, 6, 4, 1, clip), axis(12, 5, 3, 1, wrap)})},
      {"stride, causal", problem({axis(50, 12, 5, 1, shift, true)})},
      {"dilation", problem({axis(17, 3, 1, 3), axis(23, 4, 2, 4)})},
      {"dilation, clip and wrap", problem({axis(11, 3, 1, 2, clip), axis(18, 4, 1, 3, wrap)})},
      {"dilation, causal", problem({axis(71, 8, 3, 4, shift, true)})},
      {"a large dilation", problem({axis(105, 5, 2, 11)})},
      {"large dilations", problem({axis(21, 2, 1, 9, clip), axis(37, 3, 1, 12)})},
      {"a large dilation, wrap", problem({axis(4, 3), axis(200, 3, 1, 10, wrap)})},
      {"grouped heads", with(plane,
                             [](Problem& p) {
                               p.batch = 2;
                               p.heads = 6;
                               p.kv_heads = 2;
                             })},
      {"values of fewer features", features(plane, 64, 24)},
      {"values of more features", features(plane, 8, 56)},
      {"96 features", features(line, 96, 96)},
      {"128 features", features(plane, 128, 128)},
      {"256 features", features(line, 200, 256)},
      {"more features and everything", with(features(problem({axis(7, 5), axis(9, 4)}), 160, 72),
                                            [](Problem& p) {
                                              p.heads = 2;
                                              p.additional = 3;
                                              p.bias_batch = 1;
                                            })},
      {"a few additional tokens", with(plane,
                                       [](Problem& p) {
                                         p.additional = 5;
                                         p.heads = 4;
                                       })},
      {"lines of additional tokens",
       with(problem({axis(20, 3)}), [](Problem& p) { p.additional = 151; })},
      {"a bias", with(plane,
                      [](Problem& p) {
                        p.batch = 2;
                        p.bias_batch = 1;
                      })},
      {"a bias of each entry", with(problem({axis(7, 3, 2, 1, clip), axis(10, 3, 1, 2, wrap)}),
                                    [](Problem& p) {
                                      p.batch = p.bias_batch = 2;
                                      p.additional = 3;
                                    })},
      {"a negative scale", with(plane, [](Problem& p) { p.scale = -0.3; })},
      {"a scale of zero", with(plane, [](Problem& p) { p.scale = 0; })},
      {"a slab", problem({slab(axis(20, 5), 4, 9, 2, 14), axis(11, 3)})},
      {"a slab, dilation", problem({axis(5, 3), slab(axis(31, 4, 2, 3), 7, 12, 1, 26)})},
      {"a slab, wrap", problem({slab(axis(16, 5, 1, 1, wrap), 0, 8, -2, 12), axis(6, 3)})},
      {"a slab that lacks keys", problem({slab(axis(40, 5), 0, 40, 21, 6)})},
      {"slabs said to be elsewhere",
       problem({slab(axis(20, 5), 11, 9, 0, 14), slab(axis(16, 5, 1, 1, wrap), 0, 8, -16, 12)}),
       true},
      {"slabs said to be elsewhere, dilation",
       problem({slab(axis(9, 3, 1, 1, wrap), 3, 6, 8, 10), slab(axis(31, 4, 2, 3), 0, 12, 5, 26)}),
       true},
      {"a slab without a bias's corner",
       with(problem({slab(axis(24, 7, 1, 1, clip), 12, 12, 8, 16), axis(7, 3)}),
            [](Problem& p) { p.bias_batch = 1; })},
      {"everything is seen", features(problem({axis(200, 200)}), 64, 64)},
      {"a large window", problem({axis(12, 9), axis(13, 10)})},
      {"many boxes", with(problem({axis(600, 3)}), [](Problem& p) { p.heads = p.kv_heads = 1; })},
      {"many entries", with(problem({axis(20, 3)}), [](Problem& p) { p.batch = 17; })},
  };
}

std::vector<Case> cases_of_head_dim(int head_dim) {
  const std::string name = ", " + std::to_string(head_dim) + " features";
  return {{"a plane" + name, features(problem({axis(7, 5), axis(9, 3)}), head_dim, head_dim)},
          {"a line" + name, features(problem({axis(150, 70)}), head_dim, 8)}};
}

std::vector<Case> cases_of_stages(int head_dim) {
  const Boundary clip = Boundary::kClip, wrap = Boundary::kWrap;
  const std::string name = ", " + std::to_string(head_dim) + " features";
  auto heads = [&](std::initializer_list<Axis> axes, int count, int additional) {
    return with(features(problem(axes), head_dim, head_dim), [&](Problem& p) {
      p.heads = p.kv_heads = count;
      p.additional = additional;
    });
  };
  const Axis few = slab(axis(4200, 4100), 2000, 36, 0, 4200);
  const Axis few_of_period = slab(axis(4200, 4100, 1, 1, wrap), 0, 36, 0, 4200);
  return {
      {"one stage and a line" + name, heads({axis(40, 30)}, 3, 20)},
      {"two stages of a period" + name, heads({axis(90, 71, 1, 1, wrap)}, 3, 0)},
      {"stages of a plane" + name, heads({axis(20, 9, 1, 1, wrap), axis(30, 5, 2, 2, clip)}, 9, 0)},
      {"stages of a space" + name, heads({axis(6, 5), axis(7, 7, 1, 1, wrap), axis(9, 4)}, 5, 3)},
      {"batches of stages" + name, heads({few}, 2, 0)},
      {"batches of stages of a period, and lines" + name, heads({few_of_period}, 2, 70)},
  };
}

Case random_case(int seed) {
  std::mt19937 bits(static_cast<unsigned>(seed));
  auto below = [&](int end) { return static_cast<int>(bits() % static_cast<unsigned>(end)); };
  auto between = [&](int low, int high) { return low + below(high - low + 1); };
  auto one_of = [&](std::initializer_list<int> values) {
    return values.begin()[below(static_cast<int>(values.size()))];
  };
  Problem made;
  const int rank = between(1, kMaxRank);
  for (int a = kMaxRank - rank; a < kMaxRank; ++a) {
    const int dilation = one_of({1, 1, 1, 2, 3});
    const auto boundary = static_cast<Boundary>(below(3));
    const bool wrap = boundary == Boundary::kWrap;
    int length = between(dilation, rank == 1 ? 150 : rank == 2 ? 16 : 7);
    if (wrap) length = length / dilation * dilation;
    const int window = between(1, length / dilation);
    Axis& own = made.axes[a];
    own = axis(length, window, one_of({1, between(1, window)}), dilation, boundary,
               !wrap && below(3) == 0);
    if (below(4) == 0) {
      const int queries = between(1, length), keys = between(1, length);
      own = slab(own, between(0, length - queries), queries, between(0, length - keys), keys);
    }
  }
  made.batch = between(1, 3);
  made.kv_heads = between(1, 2);
  made.heads = made.kv_heads * between(1, 3);
  made.head_dim = one_of({8, 16, 32, 32, 64, 80, 128, 8 * between(1, 32)});
  made.value_dim = one_of({made.head_dim, made.head_dim, 8, 64, 8 * between(1, 32)});
  made.additional = one_of({0, 0, 0, 2, 40});
  made.bias_batch = one_of({0, 0, 0, 1, static_cast<int>(made.batch)});
  made.scale = 1 / std::sqrt(static_cast<double>(made.head_dim));
  return {"random problem " + std::to_string(seed), made};
}

}  // namespace jax_na::emulation
