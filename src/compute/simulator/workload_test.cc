#include "compute/simulator/workload.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace tidepool::compute {
namespace {

const Lengths kOneLength = {{100, 10}};

TEST(Workload, SpecsAreRead) {
  const auto poisson = ParseArrivals("poisson:0.1x70");
  ASSERT_TRUE(poisson);
  EXPECT_EQ(poisson->models, 70);
  EXPECT_DOUBLE_EQ(poisson->rate, 0.1);
  const auto gamma = ParseArrivals("gamma:0.5,4");
  ASSERT_TRUE(gamma);
  EXPECT_DOUBLE_EQ(gamma->cv, 4);
  for (const char* bad : {"poisson:", "poisson:0", "poisson:-1", "poisson:nan", "poisson:1e", "poisson:0.1x0",
                          "poisson:0.1x99999999", "poisson:1,2", "gamma:0.1", "gamma:0.1,0", "zipf:1",
                          "zipf:,", "power:2,", "uniform:1", ""}) {
    EXPECT_FALSE(ParseArrivals(bad)) << bad;
  }
}

TEST(Workload, SkewedRatesFollowThePowerLaw) {
  const auto zipf = RatesOf(*ParseArrivals("zipf:1.8,7"), 20);
  EXPECT_NEAR(std::accumulate(zipf.begin(), zipf.end(), 0.0), 7, 1e-9);
  EXPECT_NEAR(zipf[0] / zipf[3], std::pow(4, 1.8), 1e-9);
  const auto power = RatesOf(*ParseArrivals("power:2,50"), 779);
  EXPECT_DOUBLE_EQ(power[0], 50);
  EXPECT_NEAR(power[9], 0.5, 1e-12);
}

TEST(Workload, TheSameSeedGivesTheSameRequests) {
  GenerateOptions options{.rates = {1, 0.5, 0.1}, .duration_s = 500, .seed = 7};
  const auto first = *GenerateRequests(options, ShippedLengths());
  const auto again = *GenerateRequests(options, ShippedLengths());
  ASSERT_EQ(first.size(), again.size());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].arrival, again[i].arrival);
    EXPECT_EQ(first[i].prompt, again[i].prompt);
    if (i > 0) {
      EXPECT_LE(first[i - 1].arrival, first[i].arrival);
    }
  }
  options.seed = 8;
  EXPECT_NE((*GenerateRequests(options, ShippedLengths()))[0].arrival, first[0].arrival);
  // Another model leaves those that were there alone.
  options.seed = 7;
  options.rates.push_back(2);
  std::vector<Nanoseconds> kept, before;
  const auto more = *GenerateRequests(options, ShippedLengths());
  for (const auto& r : more) {
    if (r.model == 1) kept.push_back(r.arrival);
  }
  for (const auto& r : first) {
    if (r.model == 1) before.push_back(r.arrival);
  }
  EXPECT_EQ(kept, before);
}

// Mean and coefficient of variation of the gaps of one model.
std::pair<double, double> GapsOf(double cv) {
  const auto requests =
      *GenerateRequests({.rates = {2}, .cv = cv, .duration_s = 200'000, .seed = 3}, kOneLength);
  double sum = 0, squares = 0;
  for (size_t i = 1; i < requests.size(); ++i) {
    const double gap = static_cast<double>(requests[i].arrival - requests[i - 1].arrival) * 1e-9;
    sum += gap;
    squares += gap * gap;
  }
  const auto n = static_cast<double>(requests.size() - 1);
  const double mean = sum / n;
  return {mean, std::sqrt(squares / n - mean * mean) / mean};
}

TEST(Workload, GapsHaveTheirMeanAndVariation) {
  for (const double cv : {0.5, 1.0, 4.0}) {
    const auto [mean, variation] = GapsOf(cv);
    // 400,000 gaps: the mean's error is cv / 632 of it, that of cv below 1 % up to cv 4.
    EXPECT_NEAR(mean, 0.5, 0.5 * cv * 4 / 632) << cv;
    EXPECT_NEAR(variation, cv, cv * 0.04) << cv;
  }
}

TEST(Workload, ScalesAndLimits) {
  const auto requests =
      *GenerateRequests({.rates = {1}, .duration_s = 100, .scale = {.input = 2, .output = 0.01}}, kOneLength);
  for (const auto& request : requests) {
    EXPECT_EQ(request.prompt, 200);
    EXPECT_EQ(request.output, 1);
  }
  EXPECT_EQ(
      GenerateRequests({.rates = {100}, .duration_s = 1000, .max_requests = 99'999}, kOneLength).error().kind,
      ErrorKind::kTooLarge);
}

TEST(Workload, ReplayGivesModelsByPopularity) {
  Trace trace;
  for (int i = 0; i < 40'000; ++i) trace.requests.push_back({.arrival = i, .prompt = 8, .output = 4});
  const auto requests = ReplayRequests(trace, {}, {3, 1}, 1);
  double second = 0;
  for (const auto& request : requests) second += request.model;
  EXPECT_NEAR(second / 40'000, 0.25, 0.01);
}

TEST(Workload, NominalRatesWinOverCounted) {
  Trace trace;
  trace.requests = {{.arrival = 0, .model = 0}, {.arrival = 10 * kSecond, .model = 1}};
  trace.models = {"a", "b"};
  EXPECT_EQ(TraceRates(trace, 3), (std::vector<double>{0.1, 0.1, 0}));
  trace.nominal_models = 3;
  trace.nominal_rate = 0.5;
  EXPECT_EQ(TraceRates(trace, 3), (std::vector<double>{0.5, 0.5, 0.5}));
}

}  // namespace
}  // namespace tidepool::compute
