// Runs the kernels of the two halves of neighborhood attention and compares with their definition.
//
//   unfused_test       every case, in every element type
//   unfused_test NAME  the cases whose names contain NAME
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "cuda/emulation/tests/array.h"
#include "cuda/emulation/tests/cases.h"
#include "cuda/emulation/tests/run.h"
#include "cuda/naive/unfused.h"

namespace jax_na::emulation {
namespace {

using cuda::Unfused;

// A slot of a query, with the key that is in it.
struct Slot {
  bool visible;
  int64_t token;  // of the key
  int64_t bias;   // entry
};

// The slots of a query's window, by the rules of docs/semantics.md.
std::vector<Slot> window_of(const Problem& problem, const int (&at)[kMaxRank]) {
  std::vector<Slot> slots = {{true, 0, 0}};
  for (int a = 0; a < kMaxRank; ++a) {
    const Axis& axis = problem.axes[a];
    const int group = at[a] % axis.dilation, query = at[a] / axis.dilation;
    const Rule rule = axis.rule(group);
    const Interval window = rule.window_of(query);
    int first = window.begin;
    if (axis.causal)
      first = rule.lead(query) - axis.window + 1;
    else if (axis.boundary == Boundary::kClip)
      first = rule.lead(query) - axis.window / 2;
    std::vector<Slot> longer;
    for (const Slot& slot : slots)
      for (int key = first; key < first + axis.window; ++key) {
        const int position = floor_mod(key, rule.length);
        longer.push_back({slot.visible && window.begin <= key && key < window.end,
                          slot.token * axis.length + position * axis.dilation + group,
                          slot.bias * (2 * axis.window - 1) + key - query + axis.window - 1});
      }
    slots = longer;
  }
  return slots;
}

// All operations of one problem. What they read is drawn at random, what they should write is added
// up pair by pair.
template <typename T>
class Operations {
 public:
  Operations(const Case& of, const Kind<T>& kind)
      : problem_(of.problem),
        kind_(kind),
        name_(of.name + " (" + kind.name + ")"),
        head_dim_(problem_.head_dim),
        window_(problem_.axes[0].window * problem_.axes[1].window * problem_.axes[2].window),
        slots_(queries() * (window_ + problem_.additional)),
        query_rows_(queries() * head_dim_),
        key_rows_(keys() * head_dim_),
        additional_rows_(additional() * head_dim_),
        bias_(problem_.bias_batch * problem_.heads * problem_.bias_size()) {
    std::mt19937 random(2);
    slots_in_ = slots_.draw(random);
    queries_in_ = query_rows_.draw(random);
    keys_in_ = key_rows_.draw(random);
    additional_in_ = additional_rows_.draw(random);
    bias_in_ = bias_.draw(random);
    products_.assign(slots_in_.size(), -INFINITY);
    sums_.resize(queries_in_.size());
    key_sums_.resize(keys_in_.size());
    additional_sums_.resize(additional_in_.size());
    bias_sums_.resize(
        problem_.bias_batch > 0 ? problem_.batch * problem_.heads * problem_.bias_size() : 0);
    for (int64_t entry = 0; entry < problem_.batch; ++entry) {
      int64_t token = 0;
      for (int z = 0; z < problem_.axes[0].length; ++z)
        for (int y = 0; y < problem_.axes[1].length; ++y)
          for (int x = 0; x < problem_.axes[2].length; ++x, ++token)
            add_query(entry, token, window_of(problem_, {z, y, x}));
    }
  }

  void run() {
    Comparison comparison(name_, kind_.tolerance);
    Unfused arguments{};
    arguments.problem = problem_;
    arguments.stored = kind_.stored;
    arguments.invisible = -INFINITY;
    auto launched = [&](const std::string& wrong) {
      if (!wrong.empty()) fail_case(name_, wrong);
      return wrong.empty();
    };

    Array<T> products(slots_in_.size());
    arguments.slots = products.data();
    arguments.query_rows = query_rows_.data();
    arguments.key_rows = key_rows_.data();
    arguments.additional_rows = additional_rows_.data();
    arguments.bias = bias_.data();
    if (!launched(unfused_products(arguments, nullptr))) return;
    comparison.compare("products", products.values(), products_);

    Array<T> sums(queries_in_.size());
    arguments.slots = slots_.data();
    arguments.query_rows = sums.data();
    if (!launched(unfused_sums(arguments, nullptr))) return;
    comparison.compare("sums", sums.values(), sums_);

    Array<T> key_sums(keys_in_.size()), additional_sums(additional_in_.size());
    Array<char> workspace(cuda::unfused_transposed_workspace(problem_, kind_.stored));
    arguments.query_rows = query_rows_.data();
    arguments.key_rows = key_sums.data();
    arguments.additional_rows = additional_sums.data();
    arguments.workspace = workspace.data();
    if (!launched(unfused_transposed(arguments, nullptr))) return;
    comparison.compare("sums of keys", key_sums.values(), key_sums_);
    comparison.compare("sums of additional keys", additional_sums.values(), additional_sums_);

    if (problem_.bias_batch > 0) {
      Array<Real> bias_sums(bias_sums_.size());
      Array<char> tables(cuda::unfused_bias_sums_workspace(problem_, kind_.stored));
      arguments.bias = bias_sums.data();
      arguments.workspace = tables.data();
      if (!launched(unfused_bias_sums(arguments, nullptr))) return;
      comparison.compare("sums of a bias", bias_sums.values(), bias_sums_);
    }
    comparison.report();
  }

 private:
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;

  int64_t queries() const { return problem_.batch * problem_.query_tokens() * problem_.heads; }
  int64_t keys() const { return problem_.batch * problem_.key_tokens() * problem_.kv_heads; }
  int64_t additional() const { return problem_.batch * problem_.additional * problem_.kv_heads; }

  void add_query(int64_t entry, int64_t token, const std::vector<Slot>& window) {
    for (int head = 0; head < problem_.heads; ++head) {
      const int kv_head = head / problem_.group();
      const int64_t query = (entry * problem_.query_tokens() + token) * problem_.heads + head;
      const int64_t slots = query * (window_ + problem_.additional);
      const int64_t bias = problem_.bias_batch == 1 ? head : entry * problem_.heads + head;
      for (size_t i = 0; i < window.size(); ++i) {
        const Slot& slot = window[i];
        if (!slot.visible) continue;
        const int64_t key =
            (entry * problem_.key_tokens() + slot.token) * problem_.kv_heads + kv_head;
        add_pair(query, slots + i, key, keys_in_, key_sums_);
        if (problem_.bias_batch == 0) continue;
        products_[slots + i] += bias_in_[bias * problem_.bias_size() + slot.bias];
        bias_sums_[(entry * problem_.heads + head) * problem_.bias_size() + slot.bias] +=
            slots_in_[slots + i];
      }
      for (int i = 0; i < problem_.additional; ++i)
        add_pair(query, slots + window_ + i,
                 (entry * problem_.additional + i) * problem_.kv_heads + kv_head, additional_in_,
                 additional_sums_);
    }
  }

  void add_pair(int64_t query, int64_t slot, int64_t key, const std::vector<double>& rows,
                std::vector<double>& sums) {
    double product = 0;
    for (int d = 0; d < head_dim_; ++d) {
      const double q = queries_in_[query * head_dim_ + d], k = rows[key * head_dim_ + d];
      product += q * k;
      sums_[query * head_dim_ + d] += problem_.scale * slots_in_[slot] * k;
      sums[key * head_dim_ + d] += problem_.scale * slots_in_[slot] * q;
    }
    products_[slot] = problem_.scale * product;
  }

  const Problem problem_;
  const Kind<T>& kind_;
  const std::string name_;
  const int head_dim_;
  const int64_t window_;
  Array<T> slots_, query_rows_, key_rows_, additional_rows_;
  Array<Real> bias_;
  std::vector<double> slots_in_, queries_in_, keys_in_, additional_in_, bias_in_;
  std::vector<double> products_, sums_, key_sums_, additional_sums_, bias_sums_;
};

bool is_whole(const Problem& problem) {
  for (const Axis& axis : problem.axes)
    if (axis.query_count != axis.length || axis.key_count != axis.length) return false;
  return true;
}

// Every other case with rows that begin at no multiple of 16 bytes.
void run_cases(const std::string& part_of_name) {
  constexpr Kind<float> kExact = {"float32", Stored::kFloat32, Precision::kDefault, 3e-6};
  constexpr Kind<double> kFloat64 = {"float64", Stored::kFloat64, Precision::kDefault, 1e-12};
  constexpr int kUneven[] = {1, 5, 13, 37, 66};
  int number = 0;
  for (const Case& of : cases()) {
    ++number;
    if (of.name.find(part_of_name) == std::string::npos || !is_whole(of.problem)) continue;
    Case uneven = of;
    uneven.problem.head_dim = kUneven[number % std::size(kUneven)];
    Operations<float>(number % 2 == 0 ? uneven : of, kExact).run();
    Operations<double>(number % 2 == 1 ? uneven : of, kFloat64).run();
    Operations<__nv_bfloat16>(number % 4 == 0 ? uneven : of, kBFloat16).run();
    Operations<__half>(number % 4 == 2 ? uneven : of, kFloat16).run();
  }
}

}  // namespace
}  // namespace jax_na::emulation

int main(int count, char** arguments) {
  using namespace jax_na::emulation;
  const std::string wrong = jax_na::cuda::load_unfused_kernels();
  if (!wrong.empty()) fail_case("loading the kernels", wrong);
  run_cases(count > 1 ? arguments[1] : "");
  return report_failures();
}
