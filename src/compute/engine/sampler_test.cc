#include "compute/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <utility>

#include "compute/engine/random.h"

namespace tidepool::compute {
namespace {

using ::testing::HasSubstr;

// The known answers of Philox4x32-10 that come with the paper's code (Random123, kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

std::vector<float> RandomLogits(size_t count, uint64_t seed, float spread = 3) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// chips/device.h: entry l of block b is the largest of logits b * 1024 + l + 16 i; +inf if one is not finite.
std::vector<float> PeaksOfRow(const std::vector<float>& row) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> peaks(static_cast<size_t>(chips::PeaksOf(std::ssize(row))), -infinity);
  for (size_t i = 0; i < row.size(); ++i) {
    float& peak = peaks[i / 1024 * 16 + i % 16];
    peak = std::isfinite(row[i]) ? std::max(peak, row[i]) : infinity;
  }
  return peaks;
}

std::vector<const RowKernels*> KernelSets() {
  std::vector<const RowKernels*> sets;
  for (const RowKernels* const* set = RowKernelSets(); *set != nullptr; ++set) sets.push_back(*set);
  return sets;
}

struct History {
  std::vector<int32_t> prompt, output;
};

// The slow reference: the documented order, one step after the other, in double, with whole sorts.
std::vector<double> ReferenceDistribution(const std::vector<float>& row, const SamplingParams& params,
                                          const History& history, const std::vector<int32_t>& masked = {}) {
  const size_t n = row.size();
  std::vector<double> logits(row.begin(), row.end());
  std::map<int32_t, int> in_output;
  std::set<int32_t> seen(history.prompt.begin(), history.prompt.end());
  for (const int32_t token : history.output) {
    ++in_output[token];
    seen.insert(token);
  }
  for (const int32_t token : seen) {
    double& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / static_cast<double>(params.repetition_penalty)
                      : logit * static_cast<double>(params.repetition_penalty);
  }
  for (const auto& [token, count] : in_output) {
    logits[static_cast<size_t>(token)] -= static_cast<double>(params.frequency_penalty) * count;
    logits[static_cast<size_t>(token)] -= static_cast<double>(params.presence_penalty);
  }
  for (const auto& [token, bias] : params.logit_bias)
    logits[static_cast<size_t>(token)] += static_cast<double>(bias);
  const double minus_infinity = -std::numeric_limits<double>::infinity();
  for (const int32_t token : masked) logits[static_cast<size_t>(token)] = minus_infinity;
  for (double& logit : logits) logit /= static_cast<double>(params.temperature);

  auto softmax = [&] {
    const double max = *std::max_element(logits.begin(), logits.end());
    std::vector<double> p(n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += p[i] = std::exp(logits[i] - max);
    for (double& x : p) x /= sum;
    return p;
  };
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < n) {
    const double kth = logits[order[static_cast<size_t>(params.top_k) - 1]];
    for (double& logit : logits) logit = logit < kth ? minus_infinity : logit;
  }
  if (params.top_p < 1) {
    const auto p = softmax();
    double before = 0;
    for (const size_t i : order) {
      if (before >= static_cast<double>(params.top_p)) logits[i] = minus_infinity;
      before += p[i];
    }
  }
  if (params.min_p > 0) {
    const auto p = softmax();
    const double best = *std::max_element(p.begin(), p.end());
    for (size_t i = 0; i < n; ++i) {
      if (p[i] < static_cast<double>(params.min_p) * best) logits[i] = minus_infinity;
    }
  }
  return softmax();
}

TokenCounts CountsOf(const History& history) {
  TokenCounts counts;
  counts.Reserve(history.prompt.size() + history.output.size());
  for (const int32_t token : history.prompt) counts.Add(token, false);
  for (const int32_t token : history.output) counts.Add(token, true);
  return counts;
}

// Draws and compares with Pearson's chi-squared; cells expected below 8 are pooled. The bound is the 1 - 1e-6
// quantile (Wilson and Hilferty's approximation); seeds are fixed, so the test never flickers.
void ExpectDistribution(const std::vector<float>& row, const SamplingParams& params,
                        const History& history = {}, const std::vector<int32_t>& masked = {},
                        int draws = 20'000) {
  const auto expected = ReferenceDistribution(row, params, history, masked);
  const TokenCounts counts = CountsOf(history);
  const auto peaks = PeaksOfRow(row);
  Sampler sampler(static_cast<int32_t>(row.size()));
  std::vector<int> seen(row.size());
  for (int i = 0; i < draws; ++i) {
    const int32_t token =
        sampler.Sample({row, peaks.data()}, {.params = &params,
                                             .counts = HasPenalties(params) ? &counts : nullptr,
                                             .masked = masked,
                                             .seed = 12345,
                                             .index = static_cast<uint64_t>(i)});
    ASSERT_GE(token, 0);
    ++seen[static_cast<size_t>(token)];
  }
  double chi = 0, pooled_expected = 0;
  int pooled_seen = 0, cells = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double e = expected[i] * draws;
    if (expected[i] == 0) {
      ASSERT_EQ(seen[i], 0) << "token " << i << " is outside the kept set";
    } else if (e < 8) {
      pooled_expected += e;
      pooled_seen += seen[i];
    } else {
      chi += (seen[i] - e) * (seen[i] - e) / e;
      ++cells;
    }
  }
  if (pooled_expected >= 8) {
    chi += (pooled_seen - pooled_expected) * (pooled_seen - pooled_expected) / pooled_expected;
    ++cells;
  }
  if (cells < 2) return;
  const double k = cells - 1;
  const double z = 4.753;  // of 1 - 1e-6
  const double bound = k * std::pow(1 - 2 / (9 * k) + z * std::sqrt(2 / (9 * k)), 3);
  EXPECT_LT(chi, bound) << "degrees of freedom " << k;
}

SamplingParams Params(float temperature) {
  SamplingParams params;
  params.temperature = temperature;
  return params;
}

TEST(SamplerTest, TemperatureAlone) {
  const auto row = RandomLogits(60, 1);
  for (const float temperature : {0.1f, 0.7f, 1.0f, 2.0f}) {
    SCOPED_TRACE(temperature);
    ExpectDistribution(row, Params(temperature));
  }
}

TEST(SamplerTest, EveryCombinationOfFilters) {
  const auto row = RandomLogits(200, 2, 2);
  for (const int32_t top_k : {0, 1, 5, 40, 500}) {
    for (const float top_p : {1.0f, 0.95f, 0.5f, 0.01f}) {
      for (const float min_p : {0.0f, 0.05f, 0.5f, 1.0f}) {
        for (const float temperature : {0.6f, 1.3f}) {
          SCOPED_TRACE(::testing::Message() << "top_k " << top_k << " top_p " << top_p << " min_p " << min_p
                                            << " temperature " << temperature);
          SamplingParams params = Params(temperature);
          params.top_k = top_k;
          params.top_p = top_p;
          params.min_p = min_p;
          ExpectDistribution(row, params, {}, {}, 4'000);
        }
      }
    }
  }
}

TEST(SamplerTest, PenaltiesAndBias) {
  const auto row = RandomLogits(40, 3, 2);
  const History history{.prompt = {1, 2, 2, 3, 30}, .output = {2, 5, 5, 5, 7, 39}};
  for (const float repetition : {1.0f, 1.3f, 0.7f}) {
    for (const float presence : {0.0f, 1.0f, -1.0f}) {
      for (const float frequency : {0.0f, 0.5f, -0.5f}) {
        SCOPED_TRACE(::testing::Message() << repetition << ' ' << presence << ' ' << frequency);
        SamplingParams params = Params(1);
        params.repetition_penalty = repetition;
        params.presence_penalty = presence;
        params.frequency_penalty = frequency;
        params.logit_bias = {{4, 2.0f}, {5, -1.0f}, {6, -100.0f}};
        params.top_p = 0.97f;
        ExpectDistribution(row, params, history, {}, 6'000);
      }
    }
  }
}

TEST(SamplerTest, MaskedTokensNeverComeOut) {
  auto row = RandomLogits(40, 4);
  row[7] = 20;
  SamplingParams params = Params(1);
  ExpectDistribution(row, params, {}, {7, 8});
  params.top_k = 3;
  ExpectDistribution(row, params, {}, {7, 8});
  params.top_p = 0.9f;
  ExpectDistribution(row, params, {}, {7, 8});
}

TEST(SamplerTest, LargeVocabularies) {
  for (const float spread : {0.0f, 0.5f, 3.0f, 12.0f}) {
    const auto row = RandomLogits(1'500, 5, spread == 0 ? 1e-6f : spread);
    for (const float top_p : {1.0f, 0.9f, 0.3f}) {
      SCOPED_TRACE(::testing::Message() << "spread " << spread << " top_p " << top_p);
      SamplingParams params = Params(0.8f);
      params.top_p = top_p;
      ExpectDistribution(row, params, {}, {}, 12'000);
    }
    SamplingParams params = Params(0.8f);
    params.top_k = 700;  // beyond what the heap selects
    ExpectDistribution(row, params, {}, {}, 12'000);
  }
}

TEST(SamplerTest, EqualLogits) {
  std::vector<float> row(64, 1.0f);
  SamplingParams params = Params(1);
  params.top_p = 0.5f;  // the first 32 by id
  ExpectDistribution(row, params);
  params.top_p = 1;
  params.top_k = 3;  // equal to the third largest: all stay
  ExpectDistribution(row, params);
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  Sampler sampler(50);
  SamplingParams params = Params(0);
  auto row = RandomLogits(50, 6);
  row[20] = row[33] = 9;
  EXPECT_EQ(sampler.Sample({row}, {.params = &params}), 20);
  params.logit_bias = {{20, -1.0f}};
  EXPECT_EQ(sampler.Sample({row}, {.params = &params}), 33);
  params.logit_bias.clear();
  const int32_t masked[] = {20, 33};
  const int32_t third = sampler.Sample({row}, {.params = &params, .masked = masked});
  row[20] = row[33] = -100;
  EXPECT_EQ(third, std::max_element(row.begin(), row.end()) - row.begin());
}

TEST(SamplerTest, VeryLowTemperatureIsGreedy) {
  Sampler sampler(50);
  const auto row = RandomLogits(50, 8);
  const auto best = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
  for (const float temperature : {1e-45f, 1e-20f, 1e-6f, 1e-4f}) {
    SamplingParams params = Params(temperature);
    for (uint64_t i = 0; i < 20; ++i) EXPECT_EQ(sampler.Sample({row}, {.params = &params, .index = i}), best);
  }
}

TEST(SamplerTest, TheSameSeedAndIndexDrawTheSame) {
  const auto row = RandomLogits(1000, 9);
  Sampler a(1000), b(5000);
  const SamplingParams params = Params(1);
  for (uint64_t i = 0; i < 100; ++i) {
    const SampleSpec spec{.params = &params, .seed = 77, .index = i};
    const int32_t token = a.Sample({row}, spec);
    EXPECT_EQ(b.Sample({row}, spec), token);
    EXPECT_EQ(a.Sample({row}, spec), token);
  }
}

TEST(SamplerTest, RefusesWhatIsNotFinite) {
  Sampler sampler(50);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const float temperature : {0.0f, 1.0f}) {
      auto row = RandomLogits(50, 10);
      row[49] = bad;
      const SamplingParams params = Params(temperature);
      EXPECT_EQ(sampler.Sample({row}, {.params = &params}), -1);
    }
  }
}

TEST(SamplerTest, ExtremeButFiniteLogits) {
  Sampler sampler(4);
  const std::vector<float> row = {3e38f, -3e38f, 0, 1};
  for (const float temperature : {0.001f, 1.0f, 2.0f}) {
    SamplingParams params = Params(temperature);
    params.top_p = 0.9f;
    params.min_p = 0.1f;
    EXPECT_EQ(sampler.Sample({row}, {.params = &params}), 0);
  }
}

TEST(SamplerTest, LogprobsAreTheRawLogSoftmax) {
  const auto row = RandomLogits(500, 11);
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit));
  Sampler sampler(500);
  TokenLogprob logprob;
  sampler.Logprobs({row}, 17, 20, logprob);
  EXPECT_EQ(logprob.token, 17);
  // The float exponentials are within 3e-7 of exact, so their sum is; the logarithm turns that into an
  // absolute error.
  EXPECT_NEAR(logprob.logprob, static_cast<double>(row[17]) - std::log(sum), 2e-6);
  std::vector<int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return row[static_cast<size_t>(a)] > row[static_cast<size_t>(b)]; });
  ASSERT_EQ(logprob.top.size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(logprob.top[i].first, order[i]);
    EXPECT_NEAR(logprob.top[i].second,
                static_cast<double>(row[static_cast<size_t>(order[i])]) - std::log(sum), 2e-6);
  }
  sampler.Logprobs({row}, 17, 0, logprob);
  EXPECT_TRUE(logprob.top.empty());
}

TEST(SamplerTest, LogprobsOfARowThatIsNotFiniteAreNotNumbers) {
  auto row = RandomLogits(40, 12);
  row[3] = std::numeric_limits<float>::infinity();
  Sampler sampler(40);
  TokenLogprob logprob;
  logprob.top.resize(2);
  sampler.Logprobs({row}, 7, 5, logprob);
  EXPECT_EQ(logprob.token, 7);
  EXPECT_TRUE(std::isnan(logprob.logprob));
  EXPECT_TRUE(logprob.top.empty());
}

TEST(SamplerTest, RefusesARowWithoutAnythingLeft) {
  const auto row = RandomLogits(40, 13);
  std::vector<int32_t> all(row.size());
  std::iota(all.begin(), all.end(), 0);
  Sampler sampler(40);
  for (const float temperature : {0.0f, 1.0f}) {
    const SamplingParams params = Params(temperature);
    EXPECT_EQ(sampler.Sample({row}, {.params = &params, .masked = all}), -1);
  }
}

// ---- every way to the same token -----------------------------------------------------------------------

struct Case {
  std::vector<float> row;
  SamplingParams params;
  History history;
  std::vector<int32_t> few;       // what min_tokens masks
  std::vector<int32_t> masked;    // all that may not come out
  std::vector<uint64_t> allowed;  // what a grammar allows; its complement is in `masked` too
  int32_t also_allowed = -1;
  bool finite = true;
};

// Numbers of few bits, so that equal logits stay equal in float and in double whatever is done to them.
Case RandomCase(std::mt19937_64& random, size_t vocab) {
  const auto below = [&](size_t bound) { return static_cast<size_t>(random() % bound); };
  const auto token = [&] { return static_cast<int32_t>(below(vocab)); };
  Case c;
  switch (below(4)) {
    case 0: c.row.assign(vocab, 1.5f); break;
    case 1:
      c.row.resize(vocab);
      for (float& logit : c.row) logit = static_cast<float>(below(5));
      break;
    default: c.row = RandomLogits(vocab, random(), below(2) == 0 ? 1.0f : 4.0f); break;
  }
  if (below(3) == 0) {
    for (int i = 0; i < 12; ++i) c.row[below(vocab)] += 8;
  }
  const auto best = static_cast<int32_t>(std::max_element(c.row.begin(), c.row.end()) - c.row.begin());
  constexpr float kTemperatures[] = {0.0f, 0.25f, 0.5f, 1.0f, 2.0f};
  c.params.temperature = kTemperatures[below(5)];
  if (below(2) == 0) c.params.top_k = static_cast<int32_t>(1 + below(below(2) == 0 ? 50 : vocab + 5));
  if (below(2) == 0) c.params.top_p = 0.01f + 0.98f * static_cast<float>(below(1000)) / 1000;
  if (below(3) == 0) c.params.min_p = std::exp2(-static_cast<float>(below(16)));
  if (below(3) == 0) {
    c.params.repetition_penalty = below(2) == 0 ? 2.0f : 0.5f;
    c.params.frequency_penalty = 0.5f;
    c.params.presence_penalty = below(2) == 0 ? 0.25f : -0.25f;
    for (size_t i = 0; i < 1 + below(200); ++i)
      (below(2) == 0 ? c.history.prompt : c.history.output).push_back(token());
    c.history.output.push_back(best);
  }
  if (below(4) == 0) c.params.logit_bias = {{token(), 4.0f}, {best, -2.0f}};
  if (below(4) == 0) c.few = c.masked = {best, token(), token()};
  if (below(3) == 0) {
    // Whole blocks, single tokens, or half of them; at times one word short of the vocabulary.
    const size_t way = below(3);
    c.allowed.resize((vocab + 63) / 64 - (vocab > 64 ? below(2) : 0));
    for (size_t w = 0; w < c.allowed.size(); ++w) {
      c.allowed[w] = way == 0   ? (w / 16 % 2 == 0 ? ~uint64_t{0} : 0)
                     : way == 1 ? uint64_t{1} << below(64)
                                : random();
    }
    if (below(2) == 0) c.also_allowed = token();
    for (size_t t = 0; t < vocab; ++t) {
      const bool may = t / 64 < c.allowed.size() && (c.allowed[t / 64] >> (t % 64) & 1) != 0;
      if (!may && static_cast<int32_t>(t) != c.also_allowed) c.masked.push_back(static_cast<int32_t>(t));
    }
  }
  if (below(20) == 0) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float bad[] = {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity};
    c.row[below(vocab)] = bad[below(3)];
    c.finite = false;
  }
  return c;
}

// With and without peaks, on every instruction set: the one token that the reference's distribution has at
// this number of the stream. The sampler's weights are within 1e-6 of the reference's, so the two may fall on
// different sides of a border that the number meets within 1e-5: the neighbour is right then.
TEST(SamplerTest, PeaksAndInstructionSetsGiveTheReferencesToken) {
  std::mt19937_64 random(2024);
  std::vector<std::unique_ptr<Sampler>> samplers;
  for (const RowKernels* set : KernelSets()) samplers.push_back(std::make_unique<Sampler>(6000, *set));
  int drawn = 0, near_borders = 0;
  for (const size_t vocab : {1, 3, 15, 16, 17, 100, 1023, 1024, 1025, 1040, 2050, 5999}) {
    for (int i = 0; i < 120; ++i) {
      const Case c = RandomCase(random, vocab);
      SCOPED_TRACE(::testing::Message() << "vocab " << vocab << " case " << i << " temperature "
                                        << c.params.temperature << " top_k " << c.params.top_k << " top_p "
                                        << c.params.top_p << " min_p " << c.params.min_p);
      const TokenCounts counts = CountsOf(c.history);
      const auto peaks = PeaksOfRow(c.row);
      const SampleSpec spec{.params = &c.params,
                            .counts = HasPenalties(c.params) ? &counts : nullptr,
                            .masked = c.few,
                            .allowed = c.allowed,
                            .also_allowed = c.also_allowed,
                            .seed = random(),
                            .index = random() % 1000};
      const int32_t token = samplers[0]->Sample({c.row, peaks.data()}, spec);
      for (const auto& sampler : samplers) {
        ASSERT_EQ(sampler->Sample({c.row, peaks.data()}, spec), token);
        ASSERT_EQ(sampler->Sample({c.row}, spec), token);
      }
      if (!c.finite) {
        ASSERT_EQ(token, -1);
        continue;
      }
      const std::set<int32_t> masked(c.masked.begin(), c.masked.end());
      if (masked.size() == vocab) {
        ASSERT_EQ(token, -1);
        continue;
      }
      ASSERT_GE(token, 0);
      SamplingParams params = c.params;
      if (params.temperature == 0) {  // one candidate, the lowest id among equals
        params.temperature = 1;
        params.top_p = 1e-9f;
        params.top_k = 0;
      }
      const auto expected = ReferenceDistribution(c.row, params, c.history, c.masked);
      ASSERT_GT(expected[static_cast<size_t>(token)], 0.0) << token;
      if (c.params.temperature == 0) continue;
      double before = 0;
      for (size_t t = 0; t < static_cast<size_t>(token); ++t) before += expected[t];
      const double number = UniformAt(spec.seed, spec.index);
      const double after = before + expected[static_cast<size_t>(token)];
      ASSERT_GE(number, before - 1e-5);
      ASSERT_LE(number, after + 1e-5);
      ++drawn;
      near_borders += number < before || number >= after ? 1 : 0;
    }
  }
  EXPECT_GT(drawn, 800);
  EXPECT_LT(near_borders, 5);
}

TEST(SamplerTest, LogprobsAreTheSameWithPeaksAndOnEveryInstructionSet) {
  std::mt19937_64 random(5);
  for (const size_t vocab : {1, 15, 16, 300, 1024, 3001}) {
    for (int i = 0; i < 20; ++i) {
      Case c = RandomCase(random, vocab);
      if (!c.finite) continue;
      const auto peaks = PeaksOfRow(c.row);
      const auto token = static_cast<int32_t>(random() % vocab);
      std::vector<int32_t> order(vocab);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return c.row[static_cast<size_t>(a)] > c.row[static_cast<size_t>(b)];
      });
      TokenLogprob first;
      Sampler(static_cast<int32_t>(vocab)).Logprobs({c.row}, token, 20, first);
      ASSERT_EQ(first.top.size(), std::min<size_t>(20, vocab));
      for (size_t t = 0; t < first.top.size(); ++t) ASSERT_EQ(first.top[t].first, order[t]);
      for (const RowKernels* set : KernelSets()) {
        TokenLogprob other;
        Sampler(static_cast<int32_t>(vocab), *set).Logprobs({c.row, peaks.data()}, token, 20, other);
        ASSERT_EQ(other.logprob, first.logprob) << set->name;
        ASSERT_EQ(other.top, first.top) << set->name;
      }
    }
  }
}

// ---- kernels -------------------------------------------------------------------------------------------

TEST(RowKernelsTest, AreWhatTheirContractSays) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const size_t count : {1, 5, 15, 16, 17, 31, 1000, 1024, 1025, 2047, 3500}) {
    auto row = RandomLogits(count, count, 5);
    const float max = *std::max_element(row.begin(), row.end());
    if (count > 100) row[count / 2] = max - 200;  // below the smallest weight
    if (count > 1500) std::fill_n(row.begin(), 1024, max - 300);
    const float largest = *std::max_element(row.begin(), row.end());
    const auto peaks = PeaksOfRow(row);
    std::vector<const float*> blocks;
    for (size_t b = 0; b < count; b += kRowBlock) blocks.push_back(row.data() + b);
    const RowView view{blocks.data(), peaks.data(), count};
    for (const RowKernels* set : KernelSets()) {
      SCOPED_TRACE(::testing::Message() << set->name << " of " << count);
      for (size_t b = 0; b < blocks.size(); ++b) {
        const size_t size = std::min(kRowBlock, count - b * kRowBlock);
        float lanes[kRowLanes];
        set->peaks(blocks[b], size, lanes);
        for (size_t l = 0; l < kRowLanes; ++l) ASSERT_EQ(lanes[l], peaks[b * kRowLanes + l]);
        set->lane_maxima(blocks[b], size, lanes);
        for (size_t l = 0; l < kRowLanes; ++l) ASSERT_EQ(lanes[l], peaks[b * kRowLanes + l]);
      }
      for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
        const size_t size = std::min(kRowBlock, count);
        for (const size_t at : {size_t{0}, size - 1}) {
          const float kept = std::exchange(row[at], bad);
          float lanes[kRowLanes];
          set->peaks(row.data(), size, lanes);
          for (size_t l = 0; l < kRowLanes; ++l) EXPECT_EQ(lanes[l], l == at % 16 ? infinity : peaks[l]);
          row[at] = -infinity;  // a number like others here
          set->lane_maxima(row.data(), size, lanes);
          float most = -infinity;
          for (size_t i = at % 16; i < size; i += 16) most = std::max(most, row[i]);
          EXPECT_EQ(lanes[at % 16], most);
          row[at] = kept;
        }
      }
      const float inverse_temperature = 1.25f;
      std::vector<float> weights(count), baseline(count);
      set->weights(row.data(), count, largest, inverse_temperature, weights.data());
      chips::cpu::kBaselineRowKernels.weights(row.data(), count, largest, inverse_temperature,
                                              baseline.data());
      ASSERT_EQ(weights, baseline);
      std::vector<double> sums(blocks.size(), -1);
      set->block_sums(view, largest, inverse_temperature, sums.data());
      for (size_t b = 0; b < blocks.size(); ++b) {
        double sum = 0;
        for (size_t i = b * kRowBlock; i < std::min(count, (b + 1) * kRowBlock); ++i) {
          const float x = (row[i] - largest) * inverse_temperature;
          const double exact = x < -87.0f ? 0 : std::exp(static_cast<double>(x));
          ASSERT_NEAR(static_cast<double>(weights[i]), exact, 3e-7 * exact);
          sum += static_cast<double>(weights[i]);
        }
        EXPECT_NEAR(sums[b], sum, 1e-13 * sum);
        const size_t size = std::min(kRowBlock, count - b * kRowBlock);
        EXPECT_EQ(set->sum(weights.data() + b * kRowBlock, size), sums[b]);
        EXPECT_EQ(chips::cpu::kBaselineRowKernels.sum(weights.data() + b * kRowBlock, size), sums[b]);
      }
      for (const float floor : {largest, largest - 2, largest - 20, -infinity}) {
        std::vector<int32_t> ids(count + kRowLanes), expected;
        std::vector<float> values(count + kRowLanes);
        for (size_t i = 0; i < count; ++i) {
          if (row[i] >= floor) expected.push_back(static_cast<int32_t>(i));
        }
        const size_t found = set->at_least(view, floor, ids.data(), values.data());
        ASSERT_EQ(std::vector(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(found)), expected);
        for (size_t i = 0; i < found; ++i) EXPECT_EQ(values[i], row[static_cast<size_t>(expected[i])]);
        double sum = 0;
        for (const int32_t i : expected) sum += static_cast<double>(weights[static_cast<size_t>(i)]);
        size_t counted = 0;
        EXPECT_NEAR(set->sum_at_least(row.data(), weights.data(), count, floor, &counted), sum, 1e-13 * sum);
        EXPECT_EQ(counted, expected.size());
      }
    }
  }
}

// ---- validation --------------------------------------------------------------------------------------

TEST(ValidateSamplingTest, DefaultsAndEndsOfRangesPass) {
  EXPECT_TRUE(ValidateSampling({}, 100));
  SamplingParams params;
  params.temperature = 2;
  params.top_p = 1e-6f;
  params.min_p = 1;
  params.repetition_penalty = 10;
  params.presence_penalty = -2;
  params.frequency_penalty = 2;
  params.logit_bias = {{0, -100.0f}, {99, 100.0f}};
  params.max_tokens = params.min_tokens = 5;
  params.stop.assign(16, std::string(1024, 'x'));
  params.top_logprobs = 20;
  EXPECT_TRUE(ValidateSampling(params, 100));
}

TEST(ValidateSamplingTest, EveryFieldOutOfRangeIsNamed) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<std::pair<std::string, SamplingParams>> cases;
  auto add = [&](const std::string& name, auto change) {
    SamplingParams params;
    change(params);
    cases.emplace_back(name, params);
  };
  for (const float bad : {-0.1f, 2.1f, nan, infinity}) {
    add("temperature", [&](SamplingParams& p) { p.temperature = bad; });
  }
  for (const float bad : {0.0f, -1.0f, 1.01f, nan}) add("top_p", [&](SamplingParams& p) { p.top_p = bad; });
  for (const float bad : {-0.1f, 1.01f, nan}) add("min_p", [&](SamplingParams& p) { p.min_p = bad; });
  for (const float bad : {0.0f, -1.0f, 10.5f, nan}) {
    add("repetition_penalty", [&](SamplingParams& p) { p.repetition_penalty = bad; });
  }
  for (const float bad : {-2.1f, 2.1f, nan}) {
    add("presence_penalty", [&](SamplingParams& p) { p.presence_penalty = bad; });
    add("frequency_penalty", [&](SamplingParams& p) { p.frequency_penalty = bad; });
  }
  add("top_k", [](SamplingParams& p) { p.top_k = -1; });
  add("logit_bias", [](SamplingParams& p) { p.logit_bias = {{100, 0.0f}}; });
  add("logit_bias", [](SamplingParams& p) { p.logit_bias = {{-1, 0.0f}}; });
  add("logit_bias", [](SamplingParams& p) { p.logit_bias = {{1, 100.5f}}; });
  add("logit_bias", [&](SamplingParams& p) { p.logit_bias = {{1, nan}}; });
  add("logit_bias", [](SamplingParams& p) { p.logit_bias.assign(1025, {1, 0.0f}); });
  add("max_tokens", [](SamplingParams& p) { p.max_tokens = -1; });
  add("min_tokens", [](SamplingParams& p) { p.min_tokens = -1; });
  add("min_tokens", [](SamplingParams& p) {
    p.max_tokens = 4;
    p.min_tokens = 5;
  });
  add("stop", [](SamplingParams& p) { p.stop.assign(17, "x"); });
  add("stop", [](SamplingParams& p) { p.stop = {std::string(1025, 'x')}; });
  add("stop_token_ids", [](SamplingParams& p) { p.stop_token_ids = {100}; });
  add("stop_token_ids", [](SamplingParams& p) { p.stop_token_ids = {-5}; });
  add("top_logprobs", [](SamplingParams& p) { p.top_logprobs = 21; });
  add("top_logprobs", [](SamplingParams& p) { p.top_logprobs = -2; });
  add("reasoning_budget", [](SamplingParams& p) { p.reasoning_budget = -2; });
  for (const auto& [name, params] : cases) {
    const Status status = ValidateSampling(params, 100);
    ASSERT_FALSE(status) << name;
    EXPECT_EQ(status.error().kind, ErrorKind::kInvalid);
    EXPECT_EQ(status.error().param, name);
    EXPECT_THAT(status.error().message, HasSubstr(name == "stop" ? "stop string" : name));
  }
}

}  // namespace
}  // namespace tidepool::compute
