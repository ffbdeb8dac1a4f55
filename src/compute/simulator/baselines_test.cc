// The baselines do what their systems do: small cases whose outcome follows from the rule by arithmetic. And
// a policy's quanta are only a faster way to take its steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compute/scheduler/baselines/baselines.h"
#include "compute/simulator/study.h"

namespace tidepool::compute {
namespace {

constexpr uint64_t kGb = 1'000'000'000;
constexpr double kCopyRate = 25e9;
constexpr StepProfile kProfile{.prefill_base_s = 0.010,
                               .prefill_per_token_s = 20e-6,
                               .decode_base_s = 0.010,
                               .decode_per_context_token_s = 0,
                               .decode_per_sequence_s = 0.001};

// `models` of 16 GB each on `devices` of `arena_gb`, all on one host.
SimConfig Pool(const std::string& policy, int models, int devices, uint64_t arena_gb) {
  SimConfig config;
  config.policy = policy;
  PlaceDevices({{"D", devices}}, SimHost{}, config);
  config.kinds[0] = {"D", arena_gb * kGb, kCopyRate};
  for (int i = 0; i < models; ++i) {
    config.models.push_back({.name = "m" + std::to_string(i),
                             .weight_bytes = 16 * kGb,
                             .layers = 16,
                             .kv_token_bytes = 50'000,
                             .profiles = {kProfile}});
  }
  return config;
}

SimResult Outcome(const SimConfig& config, const std::vector<SimRequest>& requests) {
  auto result = Simulate(config, requests);
  EXPECT_TRUE(result) << result.error().message;
  return std::move(*result);
}

double Seconds(Nanoseconds time) { return static_cast<double>(time) * 1e-9; }
constexpr double kCopy_s = 16.0 / 25;

TEST(Baselines, DedicatedRefusesWhatHasNoDevice) {
  std::vector<SimRequest> requests;
  for (int32_t i = 0; i < 30; ++i)
    requests.push_back({.arrival = (5 + i) * kSecond, .model = i % 3, .prompt = 100, .output = 20});
  const SimResult result = Outcome(Pool("dedicated", 3, 2, 60), requests);
  EXPECT_EQ(result.rejected, 10);
  EXPECT_EQ(result.switches, 2u) << "each loads once";
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(result.details[i].rejected, requests[i].model == 2);
    if (requests[i].model == 2) continue;
    // Alone on its device: prefill, then 19 steps.
    EXPECT_NEAR(Seconds(result.details[i].last_token - requests[i].arrival), 0.012 + 19 * 0.011, 1e-6);
  }
}

TEST(Baselines, StaticSharesDevicesAndNeverSwitches) {
  std::vector<SimRequest> requests;
  for (int32_t i = 0; i < 60; ++i)
    requests.push_back({.arrival = (5 + i) * kSecond, .model = i % 6, .prompt = 100, .output = 20});
  // Room for three models of 16 GB each and KV, then for two.
  const SimResult fits = Outcome(Pool("static", 6, 2, 60), requests);
  EXPECT_EQ(fits.rejected, 0);
  EXPECT_LE(fits.switches, 6u);
  const SimResult small = Outcome(Pool("static", 6, 2, 40), requests);
  EXPECT_EQ(small.rejected, 20) << "two models each, the other two find no place";
  EXPECT_LE(small.switches, 4u);
}

TEST(Baselines, LruSwapsBetweenRequestsOnly) {
  // One place. A request of 500 tokens (5.5 s) is running when another model's arrives.
  const std::vector<SimRequest> requests = {
      {.arrival = 1 * kSecond, .model = 0, .prompt = 100, .output = 500},
      {.arrival = 3 * kSecond, .model = 1, .prompt = 100, .output = 20}};
  const SimResult lru = Outcome(Pool("lru", 2, 1, 20), requests);
  EXPECT_NEAR(Seconds(lru.details[0].last_token - requests[0].arrival), kCopy_s + 0.012 + 499 * 0.011, 0.05);
  EXPECT_GE(lru.details[1].first_token - lru.details[0].last_token,
            static_cast<Nanoseconds>(kCopy_s * 1e9) - 1);
  EXPECT_EQ(lru.switches, 2u);
  // What a pool does instead: the other's first token is on time, and nothing is computed twice.
  SimConfig config = Pool("tidepool", 2, 1, 20);
  config.ttft_s = 2;
  const SimResult pool = Outcome(config, requests);
  EXPECT_LT(pool.details[1].first_token, lru.details[1].first_token);
  EXPECT_EQ(pool.details[0].produced, 500);
}

TEST(Baselines, LruKeepsTheModelsThatWereUsedLast) {
  // Two places, asked for 0, 1, 0, 2, 0: 1 goes, not 0.
  std::vector<SimRequest> requests;
  for (const int32_t model : {0, 1, 0, 2, 0}) {
    requests.push_back({.arrival = static_cast<Nanoseconds>(requests.size() + 1) * 5 * kSecond,
                        .model = model,
                        .prompt = 100,
                        .output = 20});
  }
  const SimResult result = Outcome(Pool("lru", 3, 1, 40), requests);
  EXPECT_EQ(result.switches, 3u) << "0, 1 and 2 once each";
}

TEST(Baselines, ServerlessLlmTakesFourRequestsAnInstance) {
  // Nine at once for one model, one device: four, four, one.
  std::vector<SimRequest> requests;
  for (int32_t i = 0; i < 9; ++i)
    requests.push_back({.arrival = kSecond, .model = 0, .prompt = 100, .output = 200});
  const SimResult result = Outcome(Pool("serverlessllm", 1, 1, 60), requests);
  std::vector<Nanoseconds> first, last;
  for (const SimRequestResult& detail : result.details) {
    first.push_back(detail.first_token);
    last.push_back(detail.last_token);
  }
  std::sort(first.begin(), first.end());
  std::sort(last.begin(), last.end());
  EXPECT_GE(first[4], last[0]) << "the fifth waits for one of the four";
  EXPECT_GE(first[8], last[4]);
  // One model a device at a time: another model waits although there is memory for both.
  const std::vector<SimRequest> two = {{.arrival = 1 * kSecond, .model = 0, .prompt = 100, .output = 500},
                                       {.arrival = 2 * kSecond, .model = 1, .prompt = 100, .output = 20}};
  const SimResult alone = Outcome(Pool("serverlessllm", 2, 1, 60), two);
  EXPECT_GE(alone.details[1].first_token, alone.details[0].last_token);
}

TEST(Baselines, AegaeonPrefillsAndDecodesOnDifferentDevices) {
  SimConfig config = Pool("aegaeon", 2, 2, 60);
  config.prefill_devices = 1;
  std::vector<SimRequest> requests;
  for (int32_t i = 0; i < 20; ++i)
    requests.push_back({.arrival = (1 + i) * kSecond, .model = i % 2, .prompt = 1000, .output = 30});
  const SimResult result = Outcome(config, requests);
  EXPECT_EQ(result.rejected, 0);
  ASSERT_EQ(result.busy_s.size(), 2u);
  const auto busy = [&](size_t device) {
    return std::accumulate(result.busy_s[device].begin(), result.busy_s[device].end(), 0.0);
  };
  EXPECT_NEAR(busy(0), 20 * (0.010 + 1000 * 20e-6), 1e-3) << "each prompt once, and nothing else";
  EXPECT_LE(busy(1), 20 * 29 * 0.011 + 1e-3);
  EXPECT_GE(busy(1), 20 * 29 * 0.011 * 0.5) << "steps of two requests at once count once";
  for (const SimRequestResult& detail : result.details) EXPECT_EQ(detail.produced, 30);
}

// By hand from the formula as published.
TEST(Baselines, AegaeonsQuotasAreThoseOfTheFormula) {
  const auto expect = [](std::vector<double> ahead, double switches_s, double max_s,
                         const std::vector<double>& quotas) {
    const std::vector<double> got = AegaeonQuotas(ahead, switches_s, max_s);
    ASSERT_EQ(got.size(), quotas.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], quotas[i], 1e-9) << i;
  };
  // The paper's example: three batches, d = 0.1, t = 0.025, c = 3 s. S = 3/4, alpha = 3 / (4 * 3) + 3/4 = 1.
  expect({4, 4, 4}, 3, 3, {3, 3, 3});
  // With QMAX 4: alpha = 3/16 + 3/4 = 0.9375, q = 3 / (4 * 0.1875) = 4.
  expect({4, 4, 4}, 3, 4, {4, 4, 4});
  // Unequal ones: S = 0.95, alpha = 1.2 / 8 + 0.95 = 1.1; 1.2 / (n * 0.15): the slowest has QMAX.
  expect({2, 4, 5}, 1.2, 4, {4, 2, 1.6});
  // Light load: alpha would be 1 / 80 + 0.1, the floor makes it 0.5; q = 1 / (20 * 0.4).
  expect({20, 20}, 1, 4, {0.125, 0.125});
  // S above 1 (overload): S = 1.5, alpha = 2 / (2 * 4) + 1.5; q = 2 / (2 * 0.25).
  expect({2, 2, 2}, 2, 4, {4, 4, 4});
  // One model, resident already: no switch, no round to be paid for.
  expect({1.25}, 0, 4, {4});
}

TEST(Baselines, AegaeonsTurnsLastTheirQuota) {
  // Three models in turn on one decode device, one request each: a step takes 11 ms, n = 0.1 / 0.011, S =
  // 0.33; c = 3 * 16 GB / 25 GB/s = 1.92 s; alpha = max(1.92 / (4 n) + S, 0.5) = 0.5; q = 1.92 / (n * 0.17)
  // = 1.2424 s.
  SimConfig config = Pool("aegaeon", 3, 2, 60);
  config.prefill_devices = 1;
  std::vector<SimRequest> requests;
  for (int32_t i = 0; i < 3; ++i)
    requests.push_back({.arrival = kSecond, .model = i, .prompt = 100, .output = 900});
  constexpr double kQuota_s = 1.92 / (0.1 / 0.011 * (0.5 - 0.33));
  std::vector<double> turns;
  std::vector<PoolModelId> order;
  Nanoseconds began = -1;
  config.observe = [&](Nanoseconds now, const Effect& effect) {
    if (effect.device != 1) return;
    if (effect.kind == EffectKind::kRun && began < 0) {
      began = now;
      order.push_back(effect.model);
    } else if (effect.kind == EffectKind::kSpill && began >= 0) {
      turns.push_back(Seconds(now - began));
      began = -1;
    }
  };
  const SimResult result = Outcome(config, requests);
  for (const SimRequestResult& detail : result.details) EXPECT_EQ(detail.produced, 900);
  ASSERT_GE(turns.size(), 12u) << "900 steps are 9.9 s: eight turns a model";
  int32_t whole = 0;
  // All three must have come, and none be at its end.
  for (size_t i = 4; i < 16; ++i) whole += turns[i] >= kQuota_s * 0.98 && turns[i] <= kQuota_s * 1.02 + 0.011;
  EXPECT_EQ(whole, 12) << testing::PrintToString(turns) << ", the quota is " << kQuota_s;
  // (A round begins with the model that is there already.)
  for (const PoolModelId model : {1, 2, 3})
    EXPECT_NEAR(std::count(order.begin() + 4, order.begin() + 16, model), 4, 1) << "a round goes through all";
}

// Every request gets its tokens at the same times whether a turn's steps are taken one by one or all at once:
// to the microsecond, for what is learned of step times is rounded differently.
TEST(Quanta, GiveEveryRequestTheSameTimesAsSingleSteps) {
  for (const auto& [arena_gb, devices] : {std::pair<uint64_t, int>{20, 1}, {40, 2}, {40, 1}, {60, 3}}) {
    for (const double rate : {0.05, 0.1, 0.2, 0.4}) {
      SimConfig config = Pool("tidepool", 6, devices, arena_gb);
      // Not round: where a step ends just when weights land, either may come first.
      for (SimModel& model : config.models) {
        model.weight_bytes += 7'654'321;
        model.profiles[0].decode_base_s += 1.234567e-5;
        model.profiles[0].decode_per_sequence_s += 7.654321e-6;
        model.profiles[0].prefill_per_token_s += 1.357913e-8;
      }
      const auto requests = *GenerateRequests(
          {.rates = std::vector<double>(6, rate), .cv = 2, .duration_s = 120, .seed = 9}, ShippedLengths());
      config.options.max_turn_steps = 1;
      const SimResult steps = Outcome(config, requests);
      config.options.max_turn_steps = PoolPolicyOptions{}.max_turn_steps;
      const SimResult quanta = Outcome(config, requests);
      ASSERT_GT(requests.size(), 20u);
      size_t different = 0, first = requests.size();
      for (size_t i = 0; i < requests.size(); ++i) {
        const SimRequestResult &a = steps.details[i], &b = quanta.details[i];
        const auto near = [](Nanoseconds x, Nanoseconds y) { return std::abs(x - y) <= 1000; };
        const bool same = a.rejected == b.rejected && a.produced == b.produced && a.on_time == b.on_time &&
                          near(a.first_token, b.first_token) && near(a.last_token, b.last_token) &&
                          near(a.largest_gap, b.largest_gap);
        if (same) continue;
        ++different;
        first = std::min(first, i);
      }
      EXPECT_EQ(different, 0u) << "of " << requests.size() << " requests, the first is " << first
                               << ", arena " << arena_gb << " GB, " << devices << " devices, " << rate
                               << "/s";
      EXPECT_EQ(steps.switches, quanta.switches);
    }
  }
}

}  // namespace
}  // namespace tidepool::compute
