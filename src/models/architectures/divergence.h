// For tests and benches of accuracy: how far one model's next-token distributions are from another's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

namespace tidepool::architectures::testing {

// Kullback-Leibler divergence in nats, over the whole vocabulary, of softmax(q) from softmax(p). Not below 0
// by more than rounding: sums are double; a float logit near 30 is good for 2e-6, so divergences below about
// 1e-6 mean nothing.
inline double Divergence(std::span<const float> p, std::span<const float> q) {
  const float p_most = *std::max_element(p.begin(), p.end());
  const float q_most = *std::max_element(q.begin(), q.end());
  double p_sum = 0, q_sum = 0, weighted = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double mass = std::exp(p[i] - p_most);
    p_sum += mass;
    q_sum += static_cast<double>(std::exp(q[i] - q_most));
    weighted += mass * ((static_cast<double>(p[i]) - p_most) - (static_cast<double>(q[i]) - q_most));
  }
  return weighted / p_sum - std::log(p_sum) + std::log(q_sum);
}

inline double Entropy(std::span<const float> p) {
  const float most = *std::max_element(p.begin(), p.end());
  double sum = 0, weighted = 0;
  for (const float logit : p) {
    const double mass = std::exp(logit - most);
    sum += mass;
    weighted += mass * (static_cast<double>(logit) - most);
  }
  return std::log(sum) - weighted / sum;
}

// of(i) for each i below `count`, on two threads: the exponentials of 262,144 logits take a millisecond.
template <typename Of>
void AppendForEachRow(size_t count, std::vector<double>& values, const Of& of) {
  const size_t begin = values.size(), half = count / 2;
  values.resize(begin + count);
  const auto fill = [&](size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) values[begin + i] = of(i);
  };
  std::thread other(fill, 0, half);
  fill(half, count);
  other.join();
}

inline double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// The smallest value that `share` of all values do not exceed. values: at least one.
inline double Percentile(std::vector<double> values, double share) {
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace tidepool::architectures::testing
