// What accounts have of a pool that others use too, one test for each rule of the policy. What the rules are
// worth together: compute/simulator, pool_fairness_test and pool_shares_test.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "compute/scheduler/policy_fixture.h"

namespace tidepool::compute::pool {
namespace {

// Saturated: of who sends as much each gets device time by its weight, also where a model's profile says
// nothing (a scripted one's) and only the time its steps took is known.
class SharedModelTest : public PolicyTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Profile, SharedModelTest, ::testing::Bool());
TEST_P(SharedModelTest, IsSharedByWeights) {
  Start({8});
  PoolModel model = Warm(1, 4);
  model.max_sequences = model.max_logit_rows = 8;
  model.ttft = kSecond / 100;
  model.tpot = kMillisecond;
  world().step_times = StepProfile{.prefill_base_s = 0.01, .decode_base_s = 0.01};
  if (!GetParam()) model.profiles = {{}};
  world().AddModel(model);
  std::map<PoolJobId, std::string> senders;
  std::map<std::string, int64_t> open, tokens;
  const auto refill = [&] {
    for (const auto& [account, weight] : {std::pair("light", 1.0), std::pair("heavy", 3.0)}) {
      while (open[account] < 40) {
        world().Arrive({.job = ++last_job_,
                        .model = 1,
                        .account = account,
                        .account_weights = {weight},
                        .prompt_tokens = 40,
                        .max_output_tokens = 8},
                       8);
        senders[last_job_] = account;
        ++open[account];
      }
    }
  };
  const Nanoseconds warm = 20 * kSecond, end = 60 * kSecond;
  size_t seen = 0;
  while (world().now() < end && !world().failed()) {
    refill();
    world().Decide();
    if (!world().Advance()) break;
    if (world().ended.size() == seen) continue;
    seen = world().ended.size();
    for (auto job = senders.begin(); job != senders.end();) {
      if (!world().ended.contains(job->first)) {
        ++job;
        continue;
      }
      --open[job->second];
      if (world().now() > warm) tokens[job->second] += 8;
      job = senders.erase(job);
    }
  }
  ASSERT_GT(tokens["light"], 1000);
  EXPECT_NEAR(static_cast<double>(tokens["heavy"]) / static_cast<double>(tokens["light"]), 3, 0.3);
  for (const auto& [job, account] : senders) world().Cancel(job);
}

// Whoever comes meanwhile waits for a step: of prompts that came beyond their account's share it takes about
// a tenth of a second, however slow the device; of prompts within a share all that it can.
TEST_F(PolicyTest, StepsOfWhatCameBeyondAShareAreShort) {
  Start({8});
  PoolModel model = Warm(1, 4);
  model.batch_tokens = model.max_step_tokens = 2048;
  model.profiles = {{.prefill_base_s = 0.004,
                     .prefill_per_token_s = 0.8e-3,
                     .decode_base_s = 0.007,
                     .decode_per_context_token_s = 1e-6,
                     .decode_per_sequence_s = 0.5e-3}};
  world().step_times = model.profiles.front();
  world().AddModel(model);
  Use(1);
  std::set<PoolJobId> noisy;
  const auto send = [&](const char* account) {
    world().Arrive(
        {.job = ++last_job_, .model = 1, .account = account, .prompt_tokens = 1000, .max_output_tokens = 10},
        10);
    return last_job_;
  };
  const PoolJobId quiet = send("quiet");
  for (int32_t i = 0; i < 30; ++i) noisy.insert(send("noisy"));
  for (int32_t i = 0; i < 20; ++i) {  // somebody else is there all the time
    world().RunUntil(world().now() + 3 * kSecond);
    send("quiet");
  }
  world().Finish();
  int32_t most_beyond = 0, most_within = 0;
  for (const auto& [at, plan] : world().runs) {
    int32_t prompts = 0;
    bool all_late = true;  // of the noisy one's last ten, which are beyond its share for certain
    for (size_t i = static_cast<size_t>(plan.decodes); i < plan.sequences.size(); ++i) {
      prompts += plan.sequences[i].count;
      all_late &= plan.sequences[i].job > *noisy.rbegin() - 10 && noisy.contains(plan.sequences[i].job);
    }
    int32_t& most = all_late ? most_beyond : most_within;
    most = std::max(most, prompts);
  }
  EXPECT_GT(FirstToken(quiet), 0);
  EXPECT_GT(most_beyond, 0);
  EXPECT_LE(most_beyond, 256) << "twice that while answers are late";
  EXPECT_GE(most_within, 1000);
}

// A device that is half as fast as it says is full of late answers of a flood: others are neither refused nor
// do they wait for all that came before them.
TEST_F(PolicyTest, AFloodOnADeviceThatIsSlowerThanItSaysIsInNobodysWay) {
  Start({12}, 1);
  const StepProfile said{.prefill_base_s = 0.012,
                         .prefill_per_token_s = 1.7e-3,
                         .decode_base_s = 0.018,
                         .decode_per_context_token_s = 4.3e-6,
                         .decode_per_sequence_s = 2.5e-3};
  StepProfile real = said;  // twice as slow, so that too much is promised
  for (double* seconds : {&real.prefill_per_token_s, &real.decode_base_s, &real.decode_per_sequence_s})
    *seconds *= 2;
  world().step_times = real;
  for (PoolModelId model : {1, 2, 3}) {
    PoolModel spec = Warm(model, 4);
    spec.batch_tokens = spec.max_step_tokens = 512;
    spec.profiles = {said};
    world().AddModel(spec);
    Use(model);
  }
  const auto send = [&](const char* account, PoolModelId model) {
    world().Arrive({.job = ++last_job_,
                    .model = model,
                    .account = account,
                    .prompt_tokens = 256,
                    .max_output_tokens = 64},
                   64);
    return last_job_;
  };
  std::vector<PoolJobId> quiet;
  for (int32_t i = 0; i < 480; ++i) {  // four minutes
    const PoolJobId own = i % 5 == 0 ? send("quiet", 1) : 0;
    if (own > 0 && i >= 120) quiet.push_back(own);  // step times are learned by then
    send("noisy", 2 + static_cast<PoolModelId>(i % 2));
    world().RunUntil(world().now() + kSecond / 2);
  }
  world().Finish();
  EXPECT_GT(world().rejected.size(), 100u);
  for (const PoolJobId job : quiet) {
    ASSERT_FALSE(world().rejected.contains(job)) << job;
    // Its prompt takes .9 s, as long as a step that it comes upon; answers of both are late.
    EXPECT_LT(FirstToken(job), 5 * kSecond) << job;
  }
}

// Answers of a flood have the memory that is free, and no weights of others are given up for them.
TEST_F(PolicyTest, KvOfWhatCameBeyondAShareTakesWhatIsFree) {
  Start({8});
  const StepProfile slow{.prefill_base_s = 0.004,
                         .prefill_per_token_s = 0.8e-3,
                         .decode_base_s = 0.007,
                         .decode_per_context_token_s = 1e-6,
                         .decode_per_sequence_s = 0.5e-3};
  world().step_times = slow;
  for (PoolModelId model : {1, 2}) {
    PoolModel spec = Warm(model, 4);
    spec.max_sequences = spec.max_logit_rows = 64;
    spec.profiles = {slow};
    world().AddModel(spec);
    Use(model);
  }
  const auto send = [&](const char* account, PoolModelId model, int32_t prompt) {
    world().Arrive({.job = ++last_job_,
                    .model = model,
                    .account = account,
                    .prompt_tokens = prompt,
                    .max_output_tokens = 200},
                   200);
    return last_job_;
  };
  for (int32_t i = 0; i < 30; ++i) send("noisy", 2, 1000);  // 76 blocks each, of 600
  std::vector<PoolJobId> quiet;
  for (int32_t i = 0; i < 10; ++i) {
    quiet.push_back(send("quiet", 1, 20));
    world().RunUntil(world().now() + kSecond);
  }
  EXPECT_EQ(Count(EffectKind::kEvict, 1), 0);
  // A prompt of the flood takes .8 s; the first three that nobody knows come within its share.
  for (const PoolJobId job : quiet) EXPECT_LT(FirstToken(job), 3 * kSecond);
  world().Finish();
  EXPECT_EQ(world().ended.size(), static_cast<size_t>(last_job_));
}

// One account asks for more than there is for two minutes and is refused; another one asks now and then.
class FloodTest : public PolicyTest {
 protected:
  static constexpr StepProfile kSlow{.prefill_base_s = 0.004,
                                     .prefill_per_token_s = 0.4e-3,
                                     .decode_base_s = 0.007,
                                     .decode_per_context_token_s = 1e-6,
                                     .decode_per_sequence_s = 0.5e-3};
  void Add(PoolModelId model, int32_t segments, const StepProfile& profile = kSlow, int32_t sequences = 64) {
    PoolModel spec = Warm(model, segments);
    spec.max_sequences = spec.max_logit_rows = sequences;
    spec.batch_tokens = spec.max_step_tokens = 512;
    spec.profiles = {profile};
    world().AddModel(spec);
    Use(model);
    world().step_times = profile;
  }
  PoolJobId Send(const char* account, PoolModelId model, int32_t prompt, int32_t output) {
    world().Arrive({.job = ++last_job_,
                    .model = model,
                    .account = account,
                    .prompt_tokens = prompt,
                    .max_output_tokens = open_tokens_ > 0 ? 4000 : output,
                    .open_output_tokens = open_tokens_},
                   output);
    return last_job_;
  }
  // Seconds to the first token of the quiet one's, the longest.
  double Flood(PoolModelId flooded, PoolModelId asked, int32_t prompt, int32_t output, int32_t own = 40) {
    for (int32_t i = 0; i < 960; ++i) {
      Send("noisy", flooded, prompt, output);
      if (i % 8 == 7) quiet_.push_back(Send("quiet", asked, 100, own));
      world().RunUntil(world().now() + kSecond / 8);
    }
    world().Finish();
    EXPECT_GT(world().rejected.size(), 100u);
    return LongestSeconds();
  }
  // The quiet one's come in bunches of `bunch`, one every `period` eighths of a second, the first after 80.
  double FloodBesideBunches(int32_t eighths, int32_t period, int32_t bunch) {
    for (int32_t i = 0; i < eighths; ++i) {
      Send("noisy", 1, 100, 1000);
      for (int32_t j = 0; i % period == 80 && j < bunch; ++j) quiet_.push_back(Send("quiet", 1, 100, 100));
      world().RunUntil(world().now() + kSecond / 8);
    }
    world().Finish();
    return LongestSeconds();
  }
  double LongestSeconds() {
    double longest_s = 0;
    for (const PoolJobId job : quiet_) {
      EXPECT_FALSE(world().rejected.contains(job)) << job;
      if (!world().rejected.contains(job))
        longest_s = std::max(longest_s, static_cast<double>(FirstToken(job)) * 1e-9);
    }
    return longest_s;
  }

  int32_t open_tokens_ = 0;
  std::vector<PoolJobId> quiet_;
};

// Room for 600 blocks of KV; an answer of the flood needs 69. Weights of both models fit in beside each
// other: those of the quiet one's go when it has nothing to do, and come back for it.
TEST_F(FloodTest, KvThatComesLastMakesWayForWeightsThatOthersWaitFor) {
  Start({8}, 1, 8ull << 30);
  for (const PoolModelId model : {1, 2}) Add(model, 4);
  EXPECT_LT(Flood(2, 1, 800, 300), 3);
}
TEST_F(FloodTest, KvThatComesLastMakesWayForOthersOfItsModel) {
  Start({4}, 1, 8ull << 30);
  Add(1, 4);
  EXPECT_LT(Flood(1, 1, 100, 1000), 1);
}
// The host has little room, so that many wait, and are passed, until somebody has ended.
TEST_F(FloodTest, WhatComesLastLetsOthersPass) {
  Start({4}, 1, kRoomForKv);
  Add(1, 4);
  EXPECT_LT(Flood(1, 1, 100, 1000), 0.7);
}

// The quiet one's requests come in bunches beyond its own share: they too have the room of what comes last.
TEST_F(FloodTest, KvThatComesLastMakesWayForWhatOthersSendBeyondTheirShare) {
  Start({4}, 1, kRoomForKv);
  Add(1, 4);
  EXPECT_LT(FloodBesideBunches(1440, 240, 20), 5) << "8.2 s without";
}

// Slots are what is scarce: what comes last stands behind that too, though it came before.
TEST_F(FloodTest, WhatComesLastStandsBehindWhatOthersSendBeyondTheirShare) {
  Start({4}, 1, 8ull << 30);
  Add(1, 4, kSlow, 32);
  EXPECT_LT(FloodBesideBunches(960, 160, 24), 4.5) << "6.6 s by age";
}

// A few large requests of who asks seldom: they may come at once though each takes more than a second, also
// the first ones, and are not refused though they want more of the next ten seconds than a share.
TEST_F(FloodTest, LetsAFewLargeRequestsOfOthersComeAtOnce) {
  Start({4}, 1, 8ull << 30);
  Add(1, 4);
  for (int32_t i = 0; i < 2400; ++i) {
    Send("noisy", 1, 400, 100);
    for (int32_t j = 0; i > 480 && i % 160 == 0 && j < 4; ++j) quiet_.push_back(Send("quiet", 1, 4000, 20));
    world().RunUntil(world().now() + kSecond / 8);
  }
  world().Finish();
  EXPECT_LT(LongestSeconds(), 10) << "14 s when the first ones count as beyond the share, 16 when refused";
}

// A slow device, of which an account is refused only now and then: it sends too much in between as well.
TEST_F(FloodTest, IsOneAlsoBetweenRefusals) {
  constexpr StepProfile kVerySlow{.prefill_base_s = 0.032,
                                  .prefill_per_token_s = 3.2e-3,
                                  .decode_base_s = 0.056,
                                  .decode_per_context_token_s = 8e-6,
                                  .decode_per_sequence_s = 4e-3};
  Start({12}, 1, 8ull << 30);
  for (const PoolModelId model : {1, 2, 3}) Add(model, 4, kVerySlow);
  for (int32_t i = 0; i < 100; ++i) {
    Send("noisy", 2 + static_cast<PoolModelId>(i % 2), 1000, 100);
    if (i >= 20 && i % 4 == 2) quiet_.push_back(Send("quiet", 1, 100, 30));
    world().RunUntil(world().now() + 3 * kSecond);
  }
  world().Finish();
  EXPECT_GT(world().rejected.size(), 20u);
  EXPECT_LT(LongestSeconds(), 3.5) << "6.2 s when only five seconds after a refusal counted";
}

// Both use four models, all in memory. A prompt of the quiet one waits for its model's turn; meanwhile those
// of the flood do not make others' turns longer.
TEST_F(FloodTest, DoesNotLengthenTurnsThatOthersWaitFor) {
  Start({16}, 1, 8ull << 30);
  for (const PoolModelId model : {1, 2, 3, 4}) Add(model, 4);
  for (int32_t i = 0; i < 1440; ++i) {
    Send("noisy", 1 + static_cast<PoolModelId>(i % 4), 1000, 300);
    if (i >= 80 && i % 8 == 5)
      quiet_.push_back(Send("quiet", 1 + static_cast<PoolModelId>(i / 8 % 4), 200, 100));
    world().RunUntil(world().now() + kSecond / 8);
  }
  world().Finish();
  EXPECT_LT(LongestSeconds(), 0.75) << "1.1 s when they do";
}

// Open-ended answers of a flood fill the promises too. Those of others that need more get it from them, and
// are not computed again for those that came before.
TEST_F(FloodTest, OpenAnswersThatComeLastMakeWayForOthers) {
  Start({4}, 1, kRoomForKv);
  Add(1, 4);
  open_tokens_ = 50;
  EXPECT_LT(Flood(1, 1, 100, 1000, 150), 6) << "19 s when the older always went on";
  std::set<PoolJobId> dropped;
  for (const Effect& effect : world().log) {
    if (effect.kind == EffectKind::kDrop) dropped.insert(effect.job);
  }
  for (const PoolJobId job : quiet_) EXPECT_FALSE(dropped.contains(job)) << job;
  EXPECT_FALSE(dropped.empty()) << "there was room for all";
}

// Room for 1200 blocks of KV on device and host together. Answers of one account are promised all of it, of
// which they use less than half: what another one needs within its share is taken from that.
class PromiseTest : public PolicyTest {
 protected:
  static constexpr StepProfile kStep{.prefill_base_s = 0.004,
                                     .prefill_per_token_s = 0.1e-3,
                                     .decode_base_s = 0.03,
                                     .decode_per_context_token_s = 1e-6,
                                     .decode_per_sequence_s = 0.5e-3};
  PoolJobId Send(const char* account, int32_t may, int32_t output, int32_t open_tokens = 0) {
    world().Arrive({.job = ++last_job_,
                    .model = 1,
                    .account = account,
                    .prompt_tokens = 100,
                    .max_output_tokens = may,
                    .open_output_tokens = open_tokens},
                   output);
    return last_job_;
  }
  void Begin() {
    Start({4}, 0, kRoomForKv);
    PoolModel spec = Warm(1, 4);
    spec.max_sequences = spec.max_logit_rows = 64;
    spec.profiles = {kStep};
    world().step_times = kStep;
    world().AddModel(spec);
    Send("first", 10, 1);
    world().Finish();
    world().log.clear();
    for (int32_t i = 0; i < 12; ++i) Send("first", 1500, 400);  // 100 blocks each
    world().RunUntil(world().now() + kSecond);
  }
  void End() {
    world().Finish();
    EXPECT_EQ(world().ended.size(), static_cast<size_t>(last_job_));
    EXPECT_EQ(Count(EffectKind::kDrop), 0) << "nothing is computed again while there is room";
  }
};
TEST_F(PromiseTest, ThatIsNotUsedIsTakenBackForWhoHoldsLess) {
  Begin();
  std::vector<PoolJobId> jobs;
  for (int32_t i = 0; i < 6; ++i) jobs.push_back(Send("second", 1500, 300));  // half of the promises
  jobs.push_back(Send("second", 1500, 20));
  End();
  for (size_t i = 0; i < 6; ++i) EXPECT_LT(FirstToken(jobs[i]), kSecond) << i;
  EXPECT_GT(FirstToken(jobs[6]), 3 * kSecond / 2) << "when one of these has ended";
}
TEST_F(PromiseTest, IsNotTakenForWhatComesBeyondAShareOfThem) {
  Begin();
  const PoolJobId large = Send("second", 10'000, 20);  // 632 blocks
  End();
  EXPECT_GT(FirstToken(large), 2 * kSecond) << "when some of the first have ended";
}
TEST_F(PromiseTest, AlsoGrowsFromWhatIsNotUsed) {
  Begin();
  const PoolJobId open = Send("second", 1500, 300, 40);
  End();
  EXPECT_LT(FirstToken(open), kSecond);
  const PoolWorld::JobInfo& info = world().ended.at(open);
  EXPECT_LT(info.longest_unserved, kSecond);
}

}  // namespace
}  // namespace tidepool::compute::pool
