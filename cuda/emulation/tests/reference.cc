#include "cuda/emulation/tests/reference.h"

#include <algorithm>
#include <cmath>

namespace jax_na::emulation {
namespace {

// A key that a query sees, in the key tensor or among the additional ones.
struct Seen {
  const double* key;
  const double* value;
  double* dkey;
  double* dvalue;
  int64_t bias;  // index of the entry, or -1
};

double dot(const double* a, const double* b, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// Along one axis, the index in the key tensor of the key at a position, or -1 where it is not held.
int key_index(const Axis& axis, int group, int position) {
  if (axis.modular()) position = floor_mod(position, axis.group_length(group));
  const int index = position * axis.dilation + group - axis.key_origin;
  return 0 <= index && index < axis.key_count ? index : -1;
}

class Attention {
 public:
  Attention(const Inputs& inputs, Results& results)
      : in_(inputs), problem_(inputs.problem), results_(results) {}

  // One query of one head.
  void run(int64_t entry, const int (&at)[kMaxRank], int64_t token, int head) {
    find_seen(entry, at, head);
    const int head_dim = problem_.head_dim, value_dim = problem_.value_dim;
    const int64_t row = (entry * problem_.query_tokens() + token) * problem_.heads + head;
    const double* query = &in_.query[row * head_dim];
    const double* dout = &in_.dout[row * value_dim];
    const int64_t bias_entry =
        problem_.bias_batch == 1 ? head : entry * problem_.heads + head;  // of in_.bias
    std::vector<double> weights;
    double highest = -INFINITY, sum = 0;
    for (const Seen& seen : seen_) {
      double score = problem_.scale * dot(query, seen.key, head_dim);
      if (seen.bias >= 0) score += in_.bias[bias_entry * problem_.bias_size() + seen.bias];
      weights.push_back(score);
      highest = std::max(highest, score);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - highest);
    results_.lse[row] = seen_.empty() ? -INFINITY : highest + std::log(sum);
    double* out = &results_.out[row * value_dim];
    for (size_t i = 0; i < seen_.size(); ++i) {
      weights[i] /= sum;
      for (int d = 0; d < value_dim; ++d) out[d] += weights[i] * seen_[i].value[d];
    }

    const double delta = dot(dout, out, value_dim) - in_.dlse[row];
    double* dquery = &results_.dquery[row * head_dim];
    for (size_t i = 0; i < seen_.size(); ++i) {
      const Seen& seen = seen_[i];
      const double dscore = weights[i] * (dot(dout, seen.value, value_dim) - delta);
      for (int d = 0; d < head_dim; ++d) {
        dquery[d] += problem_.scale * dscore * seen.key[d];
        seen.dkey[d] += problem_.scale * dscore * query[d];
      }
      for (int d = 0; d < value_dim; ++d) seen.dvalue[d] += weights[i] * dout[d];
      if (seen.bias >= 0)
        results_.dbias[(entry * problem_.heads + head) * problem_.bias_size() + seen.bias] +=
            dscore;
    }
  }

 private:
  void find_seen(int64_t entry, const int (&at)[kMaxRank], int head) {
    const int kv_head = head / problem_.group();
    int group[kMaxRank], position[kMaxRank];
    Interval window[kMaxRank];
    for (int a = 0; a < kMaxRank; ++a) {
      const Axis& axis = problem_.axes[a];
      const int token = at[a] + axis.query_origin;
      group[a] = token % axis.dilation;
      position[a] = token / axis.dilation;
      window[a] = axis.rule(group[a]).window_of(position[a]);
    }
    seen_.clear();
    for (int z = window[0].begin; z < window[0].end; ++z)
      for (int y = window[1].begin; y < window[1].end; ++y)
        for (int x = window[2].begin; x < window[2].end; ++x) {
          const int key[kMaxRank] = {z, y, x};
          int64_t token = 0, bias = 0;
          bool held = true;
          for (int a = 0; a < kMaxRank; ++a) {
            const Axis& axis = problem_.axes[a];
            const int index = key_index(axis, group[a], key[a]);
            held = held && index >= 0;
            token = token * axis.key_count + index;
            bias = bias * (2 * axis.window - 1) + key[a] - position[a] + axis.window - 1;
          }
          if (!held) continue;
          const int64_t row = (entry * problem_.key_tokens() + token) * problem_.kv_heads + kv_head;
          seen_.push_back({&in_.key[row * problem_.head_dim], &in_.value[row * problem_.value_dim],
                           &results_.dkey[row * problem_.head_dim],
                           &results_.dvalue[row * problem_.value_dim],
                           problem_.bias_batch > 0 ? bias : -1});
        }
    for (int i = 0; i < problem_.additional; ++i) {
      const int64_t row = (entry * problem_.additional + i) * problem_.kv_heads + kv_head;
      seen_.push_back({&in_.additional_keys[row * problem_.head_dim],
                       &in_.additional_values[row * problem_.value_dim],
                       &results_.dadditional_keys[row * problem_.head_dim],
                       &results_.dadditional_values[row * problem_.value_dim], -1});
    }
  }

  const Inputs& in_;
  const Problem& problem_;
  Results& results_;
  std::vector<Seen> seen_;
};

}  // namespace

Results reference(const Inputs& inputs) {
  const Problem& problem = inputs.problem;
  Results results;
  results.out.resize(inputs.dout.size());
  results.lse.resize(inputs.dlse.size());
  results.dquery.resize(inputs.query.size());
  results.dkey.resize(inputs.key.size());
  results.dvalue.resize(inputs.value.size());
  results.dadditional_keys.resize(inputs.additional_keys.size());
  results.dadditional_values.resize(inputs.additional_values.size());
  if (problem.bias_batch > 0)
    results.dbias.resize(problem.batch * problem.heads * problem.bias_size());
  Attention attention(inputs, results);
  for (int64_t entry = 0; entry < problem.batch; ++entry) {
    int64_t token = 0;
    for (int z = 0; z < problem.axes[0].query_count; ++z)
      for (int y = 0; y < problem.axes[1].query_count; ++y)
        for (int x = 0; x < problem.axes[2].query_count; ++x, ++token)
          for (int head = 0; head < problem.heads; ++head)
            attention.run(entry, {z, y, x}, token, head);
  }
  return results;
}

}  // namespace jax_na::emulation
