// Transfers by arithmetic: what shares a link shares it equally, in and out are two links, a host reads for
// all.
#include "compute/simulator/sim_links.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compute/simulator/study.h"

namespace tidepool::compute {
namespace {

constexpr uint64_t kGb = 1'000'000'000;

// Two devices of one host: 10 GB/s each way, 4 GB/s from the store; models of 10 GB in ten layers.
class SimLinksTest : public ::testing::Test {
 protected:
  SimLinksTest() {
    config_.kinds = {{"D", 40 * kGb, 10e9}};
    config_.devices = {{.kind = 0, .host = 0}, {.kind = 0, .host = 0}};
    config_.hosts = {{.memory_bytes = 40 * kGb, .load_bytes_per_s = 4e9}};  // three quarters: three models
    for (int i = 0; i < 5; ++i)
      config_.models.push_back(
          {.name = "m", .weight_bytes = 10 * kGb, .layers = 10, .kv_token_bytes = 1, .profiles = {}});
    links_.Build(config_);
  }
  void Load(int32_t device, int32_t model, double at_s) {
    now_ = At(at_s);
    links_.Start({.kind = EffectKind::kLoad, .device = device, .model = model, .segments = 10}, At(at_s));
  }
  void Move(EffectKind kind, int32_t device, PoolJobId job, double gb, double at_s) {
    now_ = At(at_s);
    links_.Start({.kind = kind, .device = device, .job = job, .bytes = gb * 1e9}, At(at_s));
  }
  static Nanoseconds At(double seconds) { return std::llround(seconds * 1e9); }
  // Runs on until the next end: when it is, and what ends.
  std::pair<double, std::vector<SimTransfer>> Next() {
    now_ = links_.NextEnd(now_);
    std::vector<SimTransfer> finished;
    links_.TakeFinished(now_, finished);
    return {static_cast<double>(now_) * 1e-9, finished};
  }
  void ExpectNext(double at_s, EffectKind kind, int32_t device) {
    const auto [at, finished] = Next();
    EXPECT_NEAR(at, at_s, 1e-6);
    ASSERT_EQ(finished.size(), 1u);
    EXPECT_EQ(finished[0].kind, kind);
    EXPECT_EQ(finished[0].device, device);
  }

  SimConfig config_;
  SimLinks links_;
  Nanoseconds now_ = 0;
};

TEST_F(SimLinksTest, OneAloneHasTheLink) {
  links_.SetWarm(0, 0, true);
  Load(0, 0, 0);
  ExpectNext(1, EffectKind::kLoad, 0);
  EXPECT_EQ(links_.NextEnd(now_), INT64_MAX);
}

TEST_F(SimLinksTest, TwoInwardsShareAndTheLongerGoesOnAlone) {
  links_.SetWarm(0, 0, true);
  Load(0, 0, 0);
  Move(EffectKind::kRestore, 0, 1, 2, 0.5);  // 5 GB are there; then 5 GB/s each
  ExpectNext(0.9, EffectKind::kRestore, 0);  // 2 GB at 5 GB/s
  ExpectNext(1.2, EffectKind::kLoad, 0);     // 7 GB were there at 0.9; 3 GB at 10 GB/s
}

TEST_F(SimLinksTest, OutwardsIsALinkOfItsOwnAndIsSharedToo) {
  links_.SetWarm(0, 0, true);
  Load(0, 0, 0);
  Move(EffectKind::kSpill, 0, 1, 2, 0);
  Move(EffectKind::kSpill, 0, 2, 4, 0);
  ExpectNext(0.4, EffectKind::kSpill, 0);  // 2 GB at 5 GB/s
  ExpectNext(0.6, EffectKind::kSpill, 0);  // 2 GB left, alone
  ExpectNext(1.0, EffectKind::kLoad, 0);   // as if nothing went out
}

TEST_F(SimLinksTest, DevicesHaveLinksOfTheirOwnAndShareWhatTheHostReads) {
  for (const int32_t model : {0, 1}) links_.SetWarm(0, model, true);
  Load(0, 0, 0);
  Load(1, 1, 0);
  const auto [at, both] = Next();
  EXPECT_NEAR(at, 1, 1e-6);
  EXPECT_EQ(both.size(), 2u);
  // Neither is in host memory: 4 GB/s for both.
  Load(0, 2, 1);
  Load(1, 3, 2);                        // 4 GB of the first are there
  ExpectNext(5, EffectKind::kLoad, 0);  // 6 GB at 2 GB/s
  ExpectNext(6, EffectKind::kLoad, 1);  // 6 GB were there at 5; 4 GB at 4 GB/s
}

TEST_F(SimLinksTest, WhatWasReadStaysInHostMemoryAsLongAsThereIsRoom) {
  for (const int32_t model : {0, 1, 2, 3}) {
    Load(0, model, static_cast<double>(now_) * 1e-9);
    Next();
    links_.Evicted(0, model, 0);
  }
  EXPECT_NEAR(static_cast<double>(now_) * 1e-9, 10, 1e-6) << "each 10 GB at 4 GB/s";
  std::vector<std::tuple<int32_t, int32_t, bool>> expected;
  for (const int32_t model : {0, 1, 2, 3}) expected.emplace_back(0, model, true);
  expected.emplace_back(0, 0, false);  // room for three: the least recently used one goes
  EXPECT_EQ(links_.TakeWarmChanges(), expected);
  Load(0, 3, 10);
  ExpectNext(11, EffectKind::kLoad, 0);
  links_.Evicted(0, 3, 0);
  Load(0, 0, 11);
  ExpectNext(13.5, EffectKind::kLoad, 0);
}

TEST_F(SimLinksTest, LayersLandOneByOneAndAStoppedLoadKeepsThem) {
  links_.SetWarm(0, 0, true);
  Load(0, 0, 0);
  EXPECT_EQ(links_.NextSegment(0, At(0.35)), std::make_pair(3, At(0.4)));
  // A restore takes half of the link: half a layer is missing, at 5 GB/s.
  Move(EffectKind::kRestore, 0, 1, 10, 0.35);
  EXPECT_EQ(links_.NextSegment(0, At(0.35)), std::make_pair(3, At(0.45)));
  EXPECT_EQ(links_.StopLoad(0, At(0.5)), 4) << "4.25 layers";
  now_ = At(0.5);
  ExpectNext(0.5 + (10 - 0.75) / 10, EffectKind::kRestore, 0);  // alone again
  Load(0, 0, 2);
  ExpectNext(2.6, EffectKind::kLoad, 0);  // six layers
}

// A swap-out costs its time and counts its bytes: who waits for that room begins later, by as much as the KV
// is.
TEST(SwapOut, IsCharged) {
  constexpr int32_t kPrompt = 20'000;
  const auto run = [&](double copy_gbps, uint64_t kv_token_bytes) {
    SimConfig config;
    config.policy = "aegaeon";  // it swaps out by rule: from the device of prefills to that of decodes
    config.prefill_devices = 1;
    PlaceDevices({{"D", 2}}, SimHost{}, config);
    config.kinds[0] = {"D", 60 * kGb, copy_gbps * 1e9};
    config.models = {
        {.name = "m",
         .weight_bytes = 10 * kGb,
         .layers = 10,
         .kv_token_bytes = kv_token_bytes,
         .profiles = {{.prefill_base_s = 0.01, .prefill_per_token_s = 1e-6, .decode_base_s = 0.01}}}};
    // The second: all weights are where they are needed.
    const std::vector<SimRequest> requests = {{.arrival = kSecond, .prompt = 100, .output = 10},
                                              {.arrival = 20 * kSecond, .prompt = kPrompt, .output = 2}};
    auto result = Simulate(config, requests);
    EXPECT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->details[1].produced, 2);
    return std::move(*result);
  };
  const auto gap_s = [](const SimResult& result) {
    return static_cast<double>(result.details[1].largest_gap) * 1e-9;
  };
  // 20,000 tokens of 100 kB go out and come in: 2 GB each way, 0.2 s each at 10 GB/s, 1 s each at 2 GB/s.
  const SimResult fast = run(10, 100'000), slow = run(2, 100'000), twice = run(10, 200'000);
  EXPECT_NEAR(gap_s(fast), 2 * 0.2 + 0.01, 0.01);
  EXPECT_NEAR(gap_s(slow), 2 * 1.0 + 0.01, 0.03);
  EXPECT_NEAR(gap_s(twice), 2 * 0.4 + 0.01, 0.01);
  // Two loads of 10 GB, and the KV of both requests each way (blocks of 16 tokens).
  const double kv = 2 * (20'000 + 112) * 100'000.0;
  EXPECT_NEAR(static_cast<double>(fast.bytes_moved), 20e9 + kv, 0.02e9);
  EXPECT_NEAR(static_cast<double>(twice.bytes_moved) - static_cast<double>(fast.bytes_moved), kv, 0.02e9);
}

}  // namespace
}  // namespace tidepool::compute
