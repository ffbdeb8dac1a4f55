// More than the pool can serve: what is admitted is served on time, refusals come at once and say when to
// come again, and refusing serves more than serving everybody late would.
#include <gtest/gtest.h>

#include <random>

#include "compute/simulator/study.h"

namespace tidepool::compute {
namespace {

using Json = nlohmann::ordered_json;

struct Overload {
  const char* name;
  const char* request;
};

// Mixes, bursts, skew, slow links, one hot model: not one workload that a limit could be set for.
const Overload kOverloads[] = {
    {"200 models", R"({"workload": "poisson:0.1x200", "devices": "16xH800"})"},
    {"300 models", R"({"workload": "poisson:0.1x300", "devices": "16xH800"})"},
    {"100 models on H20", R"({"workload": "poisson:0.1x100", "devices": "8xH20"})"},
    {"40 models on 2", R"({"workload": "poisson:0.1x40", "devices": "2xH800"})"},
    {"bursts", R"({"workload": "gamma:0.2,4x60", "devices": "4xH800"})"},
    {"skew", R"({"workload": "zipf:1.0,30x200", "devices": "16xH800"})"},
    {"slow copies", R"({"workload": "poisson:0.1x100", "devices": "8xH800", "copy_gbps": 10})"},
    {"one hot model", R"({"workload": "poisson:60x1", "devices": "1xH800", "models": "qwen2.5-7b"})"},
    {"tight promise",
     R"({"workload": "poisson:0.1x100", "devices": "16xH800", "ttft_s": 3, "tpot_s": 0.03})"},
};

TEST(PoolOverloadTest, WhatIsAdmittedIsOnTimeAndRefusingServesMore) {
  for (const Overload& overload : kOverloads) {
    SCOPED_TRACE(overload.name);
    Json request = Json::parse(overload.request);
    request["duration_s"] = 300;
    const auto with = SimulateStudy(request, {}, nullptr);
    ASSERT_TRUE(with) << with.error().message;
    request["admission"] = 0;
    const auto without = SimulateStudy(request, {}, nullptr);
    ASSERT_TRUE(without) << without.error().message;
    const Json& kept = (*with)["data"][0];
    const Json& all = (*without)["data"][0];
    const double admitted = kept["admitted_on_time"], served = kept["tokens_on_time"],
                 late = all["tokens_on_time"];
    std::printf("%-18s refused %.3f, admitted on time %.3f, offered on time %.3f; nothing refused: %.3f\n",
                overload.name, kept["refused_share"].get<double>(), admitted, served, late);
    EXPECT_GE(admitted, 0.95);
    EXPECT_GE(served, late - 0.03);
    EXPECT_EQ(all["refused_share"].get<double>(), 0);
  }
}

// A processor's profile: a request's prefill costs as much as all its decoding, so that joining a batch is
// not cheap. Eight models of 0.6B in memory for three, 256 tokens in, 64 out; such a machine serves 2.5
// requests/s.
TEST(PoolOverloadTest, WhatIsAdmittedIsOnTimeWherePrefillIsHalfOfTheCost) {
  SimConfig config;
  PlaceDevices({{"cpu", 1}}, SimHost{}, config);
  config.kinds[0] = {"cpu", 1'400'000'000, 7e9};
  config.max_output_tokens = 64;
  for (int i = 0; i < 8; ++i) {
    config.models.push_back({.name = "m" + std::to_string(i),
                             .weight_bytes = 342'000'000,
                             .layers = 28,
                             .kv_token_bytes = 116'000,
                             .profiles = {{.prefill_base_s = 0.008,
                                           .prefill_per_token_s = 820e-6,
                                           .decode_base_s = 0.007,
                                           .decode_per_context_token_s = 2.5e-6,
                                           .decode_per_sequence_s = 700e-6}}});
  }
  for (const double per_s : {3.2, 4.8, 8.0}) {
    std::mt19937_64 random(7);
    std::exponential_distribution<double> gap(per_s);
    std::vector<SimRequest> requests;
    for (double at = 0; at < 180; at += gap(random)) {
      requests.push_back({.arrival = static_cast<Nanoseconds>(at * 1e9),
                          .model = static_cast<int32_t>(random() % 8),
                          .prompt = 256,
                          .output = 64});
    }
    const auto result = Simulate(config, requests);
    ASSERT_TRUE(result);
    const double refused = static_cast<double>(result->rejected) / static_cast<double>(result->requests);
    std::printf("%.1f requests/s     refused %.3f, admitted on time %.3f, offered on time %.3f\n", per_s,
                refused, result->admitted_on_time, result->tokens_on_time);
    EXPECT_GE(result->admitted_on_time, 0.95) << per_s;
    EXPECT_GE(result->tokens_on_time, 0.9 * 2.3 / per_s) << "and no more is refused than has to be";
  }
}

TEST(PoolOverloadTest, RefusalsComeAtOnceAndSayWhy) {
  const auto study = DecodeStudy(
      Json::parse(
          R"({"workload": "poisson:60x1", "devices": "1xH800", "models": "qwen2.5-7b", "duration_s": 60})"),
      {}, {});
  ASSERT_TRUE(study) << study.error().message;
  SimConfig config = study->config;
  const auto requests = *study->Requests(1);
  int64_t refused = 0;
  config.observe = [&](Nanoseconds at, const Effect& effect) {
    if (effect.kind != EffectKind::kReject) return;
    ++refused;
    EXPECT_EQ(at, requests[effect.job - 1].arrival);
    EXPECT_EQ(effect.reason, Reason::kOverloaded);
    EXPECT_GE(effect.retry_after_s, 1);
    EXPECT_LE(effect.retry_after_s, 60);
    EXPECT_GE(effect.queue_position, 0);
  };
  ASSERT_TRUE(Simulate(config, requests));
  EXPECT_GT(refused, 100);
}

// Batch work waits for its time and takes nothing from the others.
TEST(PoolOverloadTest, BatchWorkWaitsFirst) {
  const auto study = DecodeStudy(
      Json::parse(
          R"({"workload": "poisson:20x1", "devices": "1xH800", "models": "qwen2.5-7b", "duration_s": 60})"),
      {}, {});
  ASSERT_TRUE(study) << study.error().message;
  auto requests = *study->Requests(1);
  for (size_t i = 0; i < requests.size(); i += 2) requests[i].job_class = JobClass::kBatch;
  SimConfig config = study->config;
  const auto result = Simulate(config, requests);
  ASSERT_TRUE(result);
  int64_t normal = 0, normal_on_time = 0, batch_late = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const SimRequestResult& detail = result->details[i];
    if (requests[i].job_class == JobClass::kBatch) {
      EXPECT_FALSE(detail.rejected) << "batch work is not refused for load";
      EXPECT_EQ(detail.produced, requests[i].output);
      batch_late += detail.on_time < detail.produced;
    } else {
      normal += requests[i].output;
      normal_on_time += detail.on_time;
    }
  }
  EXPECT_GE(static_cast<double>(normal_on_time), 0.99 * static_cast<double>(normal));
}

}  // namespace
}  // namespace tidepool::compute
