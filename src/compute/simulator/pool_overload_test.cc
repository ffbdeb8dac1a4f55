// More than the pool can serve: what is admitted is served on time, refusals come at once and say when to
// come again, and refusing serves more than serving everybody late would.
#include <gtest/gtest.h>

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
