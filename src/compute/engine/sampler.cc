#include "compute/engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "compute/engine/random.h"

namespace tidepool::compute {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();
// Below this temperature only the largest logit has weight (and 1 / temperature would overflow).
constexpr float kGreedyBelow = 1e-5f;

bool AllFinite(std::span<const float> values) {
  uint32_t bad = 0;
  for (const float value : values) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(value) & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

// Lanes make the order of comparisons fixed and let the compiler use vectors.
constexpr size_t kLanes = 16;

float MaxOf(const float* values, size_t count) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, kMasked);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) lanes[l] = values[i + l] > lanes[l] ? values[i + l] : lanes[l];
  }
  float best = *std::max_element(lanes, lanes + kLanes);
  for (; i < count; ++i) best = std::max(best, values[i]);
  return best;
}

int32_t ArgMax(const float* values, size_t count) {
  const float best = MaxOf(values, count);
  size_t i = 0;
  while (values[i] != best) ++i;
  return static_cast<int32_t>(i);
}

// exp(x) for x <= 0, relative error below 3e-7; 0 below -87. Written so that it vectorises:
// x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) by its Taylor polynomial of degree 7 (remainder r^8 / 8!
// < 5.2e-9).
inline float ExpNonPositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float n =
      std::bit_cast<float>(std::bit_cast<uint32_t>(clamped * 1.44269504f + 12582912.0f)) - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float scale = std::bit_cast<float>(static_cast<uint32_t>((static_cast<int32_t>(n) + 127) << 23));
  return x < -87.0f ? 0.0f : p * scale;
}

// out[i] = exp((x[i] - max) * inverse_temperature) where x[i] >= floor, else 0.
void ExpWeights(const float* x, size_t count, float max, float inverse_temperature, float floor, float* out) {
  for (size_t i = 0; i < count; ++i) {
    const float weight = ExpNonPositive((x[i] - max) * inverse_temperature);
    out[i] = x[i] >= floor ? weight : 0.0f;
  }
}

double Sum(const float* values, size_t count) {
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(values[i + l]);
  }
  for (size_t l = 0; i < count; ++i, ++l) lanes[l] += static_cast<double>(values[i]);
  return std::accumulate(lanes, lanes + kLanes, 0.0);
}

void ApplyPenalties(const SamplingParams& params, const TokenCounts& counts, float* logits) {
  for (const TokenCounts::Entry& entry : counts.entries()) {
    float& logit = logits[entry.token];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (entry.in_output > 0) {
      logit -= params.frequency_penalty * static_cast<float>(entry.in_output) + params.presence_penalty;
    }
  }
}

}  // namespace

// ---- counts ------------------------------------------------------------------------------------------

void TokenCounts::Reserve(size_t tokens) {
  entries_.reserve(tokens);
  slots_.assign(std::bit_ceil(2 * tokens + 2), 0);
}

void TokenCounts::Add(int32_t token, bool output) {
  const size_t mask = slots_.size() - 1;
  size_t slot = (static_cast<uint32_t>(token) * 0x9E3779B1u) & mask;
  while (slots_[slot] != 0 && entries_[static_cast<size_t>(slots_[slot] - 1)].token != token)
    slot = (slot + 1) & mask;
  if (slots_[slot] == 0) {
    CHECK(entries_.size() < entries_.capacity());
    entries_.push_back({.token = token, .in_output = 0});
    slots_[slot] = static_cast<int32_t>(entries_.size());
  }
  if (output) ++entries_[static_cast<size_t>(slots_[slot] - 1)].in_output;
}

bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

// ---- sampling ----------------------------------------------------------------------------------------

Sampler::Sampler(int32_t max_vocab)
    : logits_(static_cast<size_t>(max_vocab)),
      weights_(static_cast<size_t>(max_vocab)),
      candidates_(static_cast<size_t>(max_vocab)),
      selection_(static_cast<size_t>(max_vocab)) {}

int32_t Sampler::Sample(std::span<const float> logits, const SampleSpec& spec) {
  if (!AllFinite(logits)) return -1;
  const SamplingParams& params = *spec.params;
  const bool changed = spec.counts != nullptr || !params.logit_bias.empty() || !spec.masked.empty();
  const bool greedy = params.temperature < kGreedyBelow;
  if (greedy && !changed) return ArgMax(logits.data(), logits.size());

  std::memcpy(logits_.data(), logits.data(), logits.size_bytes());
  if (spec.counts != nullptr) ApplyPenalties(params, *spec.counts, logits_.data());
  for (const auto& [token, bias] : params.logit_bias) logits_[static_cast<size_t>(token)] += bias;
  for (const int32_t token : spec.masked) logits_[static_cast<size_t>(token)] = kMasked;

  const float max_logit = MaxOf(logits_.data(), logits.size());
  if (!std::isfinite(max_logit)) return -1;
  if (greedy) return ArgMax(logits_.data(), logits.size());
  return Draw(logits.size(), params.temperature, max_logit, spec);
}

int32_t Sampler::Draw(size_t count, float temperature, float max_logit, const SampleSpec& spec) {
  const SamplingParams& params = *spec.params;
  const float inverse_temperature = 1.0f / temperature;
  float floor = kMasked;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < count) floor = KthLargest(count, params.top_k);
  ExpWeights(logits_.data(), count, max_logit, inverse_temperature, floor, weights_.data());
  double mass = Sum(weights_.data(), count);

  if (params.top_p < 1.0f) {
    const Kept cut =
        NucleusCut(count, inverse_temperature, max_logit, mass, static_cast<double>(params.top_p));
    for (size_t i = 0; i < count; ++i) {
      const bool keep =
          logits_[i] > cut.logit || (logits_[i] == cut.logit && static_cast<int32_t>(i) <= cut.last_token);
      weights_[i] = keep ? weights_[i] : 0.0f;
    }
  }
  if (params.min_p > 0.0f) {  // the largest weight is exp(0) = 1
    for (size_t i = 0; i < count; ++i) weights_[i] = weights_[i] >= params.min_p ? weights_[i] : 0.0f;
  }
  if (params.top_p < 1.0f || params.min_p > 0.0f) mass = Sum(weights_.data(), count);

  const double target = UniformAt(spec.seed, spec.index) * mass;
  double before = 0;
  constexpr size_t kBlock = 256;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(count, begin + kBlock);
    const double block = Sum(weights_.data() + begin, end - begin);
    if (before + block > target) {
      double upto = before;
      for (size_t i = begin; i < end; ++i) {
        upto += static_cast<double>(weights_[i]);
        if (upto > target && weights_[i] > 0.0f) return static_cast<int32_t>(i);
      }
    }
    before += block;
  }
  // Rounding left the target at the very end: the last token that may come out.
  size_t last = count - 1;
  while (weights_[last] <= 0.0f) --last;
  return static_cast<int32_t>(last);
}

float Sampler::KthLargest(size_t count, int32_t k) {
  // A heap of the k best so far: most logits fail the first comparison.
  const auto wanted = static_cast<size_t>(k);
  if (wanted <= 512) {
    const auto larger = std::greater<float>();
    const auto heap = selection_.begin();
    const auto heap_end = heap + static_cast<ptrdiff_t>(wanted);
    std::copy_n(logits_.begin(), wanted, heap);
    std::make_heap(heap, heap_end, larger);
    for (size_t i = wanted; i < count; ++i) {
      if (logits_[i] <= *heap) continue;
      std::pop_heap(heap, heap_end, larger);
      *(heap_end - 1) = logits_[i];
      std::push_heap(heap, heap_end, larger);
    }
    return *heap;
  }
  std::copy_n(logits_.begin(), count, selection_.begin());
  const auto kth = selection_.begin() + (k - 1);
  std::nth_element(selection_.begin(), kth, selection_.begin() + static_cast<ptrdiff_t>(count),
                   std::greater<float>());
  return *kth;
}

// Finds where the tokens in falling order reach top_p of the mass, without sorting them: a histogram over
// (max - logit) / temperature finds the bucket in which that happens, a weighted selection the place in it.
Sampler::Kept Sampler::NucleusCut(size_t count, float inverse_temperature, float max_logit, double mass,
                                  double top_p) {
  constexpr size_t kBuckets = 1024;  // of 1/8 nat
  constexpr float kPerNat = 8;
  double bucket_mass[kBuckets] = {};
  auto bucket_of = [&](float logit) {
    const float depth = (max_logit - logit) * inverse_temperature * kPerNat;
    return static_cast<size_t>(std::min(depth, static_cast<float>(kBuckets - 1)));
  };
  for (size_t i = 0; i < count; ++i) {
    if (weights_[i] > 0.0f) bucket_mass[bucket_of(logits_[i])] += static_cast<double>(weights_[i]);
  }
  const double target = top_p * mass;
  double before = 0;
  size_t bucket = 0;
  while (bucket + 1 < kBuckets && before + bucket_mass[bucket] < target) before += bucket_mass[bucket++];
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    if (weights_[i] > 0.0f && bucket_of(logits_[i]) == bucket) candidates_[found++] = static_cast<int32_t>(i);
  }
  if (found == 0) return {.logit = kMasked, .last_token = std::numeric_limits<int32_t>::max()};

  auto comes_first = [&](int32_t a, int32_t b) {
    const float la = logits_[static_cast<size_t>(a)], lb = logits_[static_cast<size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  size_t begin = 0, end = found;  // the cut is the first candidate at which `before` reaches the target
  while (end - begin > 32) {
    const auto first = candidates_.begin() + static_cast<ptrdiff_t>(begin);
    const auto last = candidates_.begin() + static_cast<ptrdiff_t>(end);
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, comes_first);
    double upper = 0;
    for (auto it = first; it != middle; ++it)
      upper += static_cast<double>(weights_[static_cast<size_t>(*it)]);
    if (before + upper >= target) {
      end = static_cast<size_t>(middle - candidates_.begin());
    } else {
      before += upper;
      begin = static_cast<size_t>(middle - candidates_.begin());
    }
  }
  std::sort(candidates_.begin() + static_cast<ptrdiff_t>(begin),
            candidates_.begin() + static_cast<ptrdiff_t>(end), comes_first);
  size_t at = begin;
  while (at + 1 < end) {
    before += static_cast<double>(weights_[static_cast<size_t>(candidates_[at])]);
    if (before >= target) break;
    ++at;
  }
  const int32_t token = candidates_[at];
  return {.logit = logits_[static_cast<size_t>(token)], .last_token = token};
}

// ---- logprobs ----------------------------------------------------------------------------------------

void Sampler::Logprobs(std::span<const float> logits, int32_t token, int32_t top, TokenLogprob& out) {
  const float max = MaxOf(logits.data(), logits.size());
  ExpWeights(logits.data(), logits.size(), max, 1.0f, kMasked, weights_.data());
  const double log_sum = static_cast<double>(max) + std::log(Sum(weights_.data(), logits.size()));
  auto logprob = [&](int32_t t) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(t)]) - log_sum);
  };
  out.token = token;
  out.logprob = logprob(token);
  out.top.clear();
  const auto wanted = std::min(static_cast<size_t>(std::max(top, 0)), logits.size());
  if (wanted == 0) return;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (out.top.size() == wanted && logits[i] <= out.top.back().second) continue;
    if (out.top.size() == wanted) out.top.pop_back();
    const auto at =
        std::find_if(out.top.begin(), out.top.end(), [&](const auto& t) { return t.second < logits[i]; });
    out.top.insert(at, {static_cast<int32_t>(i), logits[i]});
  }
  for (auto& [t, value] : out.top) value = logprob(t);
}

}  // namespace tidepool::compute
