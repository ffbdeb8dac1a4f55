// One test for each rule of Tidepool's policy (the head of tidepool_scheduler.h), each of which fails when
// the rule is taken out. What the rules are worth together is tested in compute/simulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "compute/scheduler/pool_world.h"

namespace tidepool::compute::pool {
namespace {

constexpr uint64_t kBlock = 1 << 20;
constexpr uint64_t kRoomForKv = 600 * kBlock;
constexpr double kCopyRate = 20e9;

class PolicyTest : public ::testing::Test {
 protected:
  // `arenas`: segments of weights that each device has room for, beside KV.
  void Start(std::initializer_list<int32_t> arenas, double admission_load = 0, uint64_t host_kv = 1 << 30) {
    world_ = std::make_unique<PoolWorld>(
        MakeTidepoolScheduler({.admission_load = admission_load, .age_bound_s = 30}), 3);
    world_->keep_log = true;
    world_->AddHost({.kv_bytes = host_kv, .load_bytes_per_s = 4e9});
    for (const int32_t segments : arenas) {
      world_->AddDevice({.host = 0,
                         .arena_bytes = static_cast<uint64_t>(segments) * kTestSegment + kRoomForKv,
                         .copy_bytes_per_s = kCopyRate});
    }
  }
  PoolModel Warm(PoolModelId id, int32_t segments) {
    PoolModel model = TestModel(id, segments, kBlock);
    model.warm_hosts = {0};
    return model;
  }
  PoolJobId Ask(PoolModelId model, int32_t output = 20, int32_t prompt = 100) {
    world_->Arrive({.job = ++last_job_,
                    .model = model,
                    .account = "a",
                    .prompt_tokens = prompt,
                    .max_output_tokens = output},
                   output);
    return last_job_;
  }
  PoolJobId AskFor(PoolModelId model, Nanoseconds ttft, Nanoseconds tpot, int32_t output = 20) {
    world_->Arrive({.job = ++last_job_,
                    .model = model,
                    .account = "a",
                    .prompt_tokens = 100,
                    .max_output_tokens = output,
                    .ttft = ttft,
                    .tpot = tpot},
                   output);
    return last_job_;
  }
  PoolJobId AskAs(JobClass job_class, PoolModelId model) {
    world_->Arrive({.job = ++last_job_,
                    .model = model,
                    .account = "a",
                    .job_class = job_class,
                    .prompt_tokens = 400,
                    .max_output_tokens = 20},
                   20);
    return last_job_;
  }
  PoolWorld& world() { return *world_; }
  int64_t Count(EffectKind kind, PoolModelId model = 0) const {
    return std::count_if(world_->log.begin(), world_->log.end(), [&](const Effect& effect) {
      return effect.kind == kind && (model == 0 || effect.model == model);
    });
  }
  const Effect* First(EffectKind kind) const {
    const auto entry = std::find_if(world_->log.begin(), world_->log.end(),
                                    [&](const Effect& effect) { return effect.kind == kind; });
    return entry == world_->log.end() ? nullptr : &*entry;
  }
  Nanoseconds FirstToken(PoolJobId job) const {
    const PoolWorld::JobInfo& info =
        world_->ended.contains(job) ? world_->ended.at(job) : world_->live.at(job);
    return info.first_token < 0 ? INT64_MAX : info.first_token - info.arrived;
  }
  // Resident, and its first answer is out.
  void Use(PoolModelId model) {
    Ask(model);
    world_->Finish();
    world_->log.clear();
    world_->runs.clear();
  }
  void TearDown() override { EXPECT_FALSE(world_->failed()); }

  std::unique_ptr<PoolWorld> world_;
  PoolJobId last_job_ = 0;
};

// ---- turns

TEST_F(PolicyTest, AmongResidentModelsTheLeastSlackRuns) {
  Start({8});
  for (PoolModelId model : {1, 2}) {
    world().AddModel(Warm(model, 4));
    Use(model);
  }
  AskFor(1, 10 * kSecond, 100 * kMillisecond);
  AskFor(2, 2 * kSecond, 100 * kMillisecond);
  world().Decide();
  ASSERT_FALSE(world().runs.empty());
  EXPECT_EQ(world().runs.front().second.model, 2u) << "the one that came later is due sooner";
  world().Finish();
}

TEST_F(PolicyTest, ATurnIsKeptForSomeTokensNotGivenAwayAtEveryStep) {
  Start({8});
  for (PoolModelId model : {1, 2}) {
    world().AddModel(Warm(model, 4));
    Use(model);
  }
  Ask(1, 400);
  Ask(2, 400);
  world().Finish();
  int32_t steps = 0, changes = 0;
  PoolModelId last = 0;
  for (const auto& [at, plan] : world().runs) {
    steps += plan.steps;
    changes += last != 0 && plan.model != last;
    last = plan.model;
  }
  EXPECT_GE(steps, 800);
  EXPECT_GT(changes, 4) << "both make headway";
  EXPECT_LT(changes, steps / 4) << "and keep their turns";
}

TEST_F(PolicyTest, PrefillSharesStepsWithTheDecodesOfItsModel) {
  Start({8});
  PoolModel model = Warm(1, 4);
  model.batch_tokens = model.max_step_tokens = 64;
  world().AddModel(model);
  Use(1);
  const PoolJobId first = Ask(1, 200);
  world().Decide();
  while (world().live.at(first).produced < 10) ASSERT_TRUE(world().Advance());
  world().runs.clear();
  Ask(1, 20, 400);
  world().Finish();
  int32_t shared = 0, chunks = 0;
  for (const auto& [at, plan] : world().runs) {
    const bool prefills = plan.sequences.size() > static_cast<size_t>(plan.decodes);
    chunks += prefills;
    shared += prefills && plan.decodes > 0;
    EXPECT_LE(plan.tokens, 64);
  }
  EXPECT_GE(chunks, 6) << "400 tokens in chunks of at most 63";
  EXPECT_EQ(shared, chunks) << "no decode waited for them";
}

TEST_F(PolicyTest, UnderOverloadNothingWaitsMuchLongerThanTheAgeBound) {
  Start({8});
  PoolModel model = Warm(1, 4);
  model.max_sequences = model.max_logit_rows = 1;  // one after the other
  world().AddModel(model);
  Use(1);
  std::vector<PoolJobId> jobs;
  const Nanoseconds began = world().now();
  // 120 requests of half a second within 20 s, promised a second: late are nearly all.
  for (int32_t i = 0; i < 120; ++i) {
    world().RunUntil(began + i * 160 * kMillisecond);
    jobs.push_back(AskFor(1, kSecond, 20 * kMillisecond, 60));
    world().Decide();
  }
  world().Finish();
  // Once old enough they go by age: none is passed over by those that came much later.
  Nanoseconds latest = 0;
  for (size_t i = 0; i + 60 < jobs.size(); ++i) {
    const PoolWorld::JobInfo& older = world().ended.at(jobs[i]);
    const PoolWorld::JobInfo& younger = world().ended.at(jobs[i + 60]);
    if (older.first_token > younger.first_token) latest = std::max(latest, older.first_token - older.arrived);
  }
  EXPECT_LT(latest, 45 * kSecond) << "30 s and what was before it by then";
}

// ---- weights

TEST_F(PolicyTest, TheMostUrgentModelLoadsFirst) {
  Start({8});
  for (PoolModelId model : {1, 2}) world().AddModel(Warm(model, 4));
  AskFor(1, 10 * kSecond, 100 * kMillisecond);
  AskFor(2, 2 * kSecond, 100 * kMillisecond);
  world().Decide();
  ASSERT_NE(First(EffectKind::kLoad), nullptr);
  EXPECT_EQ(First(EffectKind::kLoad)->model, 2u);
  world().Finish();
}

TEST_F(PolicyTest, AnIdleModelGivesLastLayersAsManyAsAreNeeded) {
  Start({10});
  world().AddModel(Warm(1, 6));
  world().AddModel(Warm(2, 6));
  Use(1);
  Ask(2);
  world().Finish();
  EXPECT_GE(world().resident(0, 1), 3) << "12 of weights, room for 10 and KV";
  EXPECT_LT(world().resident(0, 1), 6);
  ASSERT_NE(First(EffectKind::kEvict), nullptr);
  EXPECT_EQ(First(EffectKind::kEvict)->reason, Reason::kIdle);
}

TEST_F(PolicyTest, OfIdleModelsTheOneThatIsWantedLeastGoes) {
  Start({8});
  for (PoolModelId model : {1, 2, 3}) world().AddModel(Warm(model, 4));
  // Model 1 is asked for every other second, model 2 was once; then model 3 comes.
  Ask(2);
  world().Finish();
  for (int32_t i = 0; i < 8; ++i) {
    world().RunUntil(world().now() + 2 * kSecond);
    Ask(1);
    world().Finish();
  }
  world().log.clear();
  Ask(3);
  world().Finish();
  EXPECT_EQ(world().resident(0, 1), 4);
  EXPECT_LT(world().resident(0, 2), 4);
}

// Two names of one file: its bytes count once, come once, and go when both names let them go.
TEST_F(PolicyTest, ModelsOfOneFileShareItsBytes) {
  Start({8});
  PoolModel first = Warm(1, 4), second = Warm(2, 4);
  world().AddModel(first);
  first.weights_id = second.weights_id = 1;
  world().UpdateModel(first);
  world().AddModel(second);
  world().AddModel(Warm(3, 4));
  world().AddModel(Warm(4, 4));
  for (const PoolModelId model : {1, 2, 3, 1, 2, 3}) Use(model);
  EXPECT_EQ(world().scheduler().counters().evictions, 0u) << "all of them fit";
  EXPECT_EQ(world().scheduler().counters().bytes_loaded, 8 * kTestSegment);
  for (int32_t i = 0; i < 60; ++i) {
    world().RunUntil(world().now() + kSecond);
    Use(3);
  }
  Use(4);
  EXPECT_LT(world().resident(0, 1), 4);
  EXPECT_LT(world().resident(0, 2), 4) << "one alone gives nothing";
  EXPECT_EQ(world().resident(0, 3), 4) << "it is used";
  EXPECT_EQ(world().resident(0, 4), 4);
  // What is pinned under one name stays, whatever the other does.
  first.pinned = true;
  world().UpdateModel(first);
  Use(2);
  Use(3);
  Use(4);
  Use(3);
  EXPECT_EQ(world().resident(0, 1), 4);
}

TEST_F(PolicyTest, ModelsAtWorkAreNotExchangedForALittleLessSlack) {
  // Two models, room for one, a bus that needs 4 s for each: exchanging them at every token would be all
  // that is done.
  Start({4});
  world_ = nullptr;
  world_ = std::make_unique<PoolWorld>(MakeTidepoolScheduler({.admission_load = 0}), 3);
  world_->keep_log = true;
  world_->AddHost({.kv_bytes = uint64_t{1} << 30, .load_bytes_per_s = 4e9});
  world_->AddDevice({.host = 0, .arena_bytes = 4 * kTestSegment + kRoomForKv, .copy_bytes_per_s = 1.1e9});
  for (PoolModelId model : {1, 2}) world().AddModel(Warm(model, 4));
  Ask(1, 3000);
  Ask(2, 3000);
  world().Finish();
  EXPECT_EQ(world().ended.size(), 2u);
  // 3,000 steps take 25 s each; a round of both loads takes 8 s.
  EXPECT_LE(Count(EffectKind::kLoad), 10);
}

TEST_F(PolicyTest, PinnedModelsStayAndOthersTakeTurnsBesideThem) {
  Start({8});
  PoolModel pinned = Warm(1, 4);
  pinned.pinned = true;
  world().AddModel(pinned);
  for (PoolModelId model : {2, 3}) world().AddModel(Warm(model, 4));
  world().Decide();
  world().RunUntil(2 * kSecond);
  EXPECT_EQ(world().resident(0, 1), 4) << "loaded without a request";
  for (int32_t i = 0; i < 4; ++i) {
    Ask(2);
    Ask(3);
    world().Finish();
    EXPECT_EQ(world().resident(0, 1), 4);
  }
  EXPECT_EQ(Count(EffectKind::kEvict, 1), 0);
}

TEST_F(PolicyTest, TimeToLiveAndLeastResidencyAreKept) {
  Start({4});
  PoolModel kept = Warm(1, 4), passing = Warm(2, 4);
  kept.min_resident = 8 * kSecond;
  passing.idle_ttl = 3 * kSecond;
  world().AddModel(kept);
  world().AddModel(passing);
  Use(1);
  const Nanoseconds landed = world().now();
  AskFor(2, 2 * kSecond, 100 * kMillisecond);
  world().RunUntil(landed + 7 * kSecond);
  EXPECT_EQ(world().resident(0, 1), 4) << "however urgent the other is";
  world().Finish();
  EXPECT_EQ(world().resident(0, 2), 4);
  world().RunUntil(world().now() + 2 * kSecond);
  EXPECT_EQ(world().resident(0, 2), 4);
  world().RunUntil(world().now() + 2 * kSecond);
  EXPECT_EQ(world().resident(0, 2), 0) << "idle for longer than its time to live";
}

TEST_F(PolicyTest, AStepBeginsBeforeItsLastLayersHaveLanded) {
  Start({8});
  PoolModel model = Warm(1, 8);
  model.batch_tokens = model.max_step_tokens = 4096;
  world().AddModel(model);
  // The prefill (4,000 tokens: 95 ms of 22.4 us each) hides a quarter of the copy (8 GiB: 430 ms).
  const PoolJobId job = Ask(1, 4, 4000);
  world().Finish();
  EXPECT_EQ(world().landings, 1);
  EXPECT_LT(FirstToken(job), 470 * kMillisecond) << "one after the other it would be 525 ms";
}

TEST_F(PolicyTest, AModelWhoseFileIsBadWaitsLongerEachTimeAndIsRefusedMeanwhile) {
  Start({8});
  world().AddModel(Warm(1, 4));
  world().AddModel(Warm(2, 4));
  world().faults.load_fails = 1000;
  Ask(1);
  world().Decide();
  world().RunUntil(20 * kSecond);
  const int64_t tries = Count(EffectKind::kLoad, 1);
  EXPECT_GE(tries, 2);
  EXPECT_LE(tries, 4) << "after 2, 4, 8 s";
  const PoolJobId late = Ask(1);
  world().Decide();
  ASSERT_TRUE(world().rejected.contains(late));
  EXPECT_EQ(world().rejected.at(late).effect.reason, Reason::kQuarantined);
  EXPECT_GT(world().rejected.at(late).effect.retry_after_s, 0);
  world().faults.load_fails = 0;
  const PoolJobId other = Ask(2);
  world().Finish();
  EXPECT_LT(FirstToken(other), 2 * kSecond) << "others are not harmed";
  EXPECT_EQ(world().resident(0, 1), 4) << "and it comes back";
}

// ---- KV

TEST_F(PolicyTest, KvOfAModelThatMakesWayStaysAndIsNotComputedAgain) {
  Start({4});
  for (PoolModelId model : {1, 2}) world().AddModel(Warm(model, 4));
  const PoolJobId held = Ask(1, 2000);
  world().RunUntil(6 * kSecond);
  AskFor(2, 2 * kSecond, 100 * kMillisecond);
  world().Finish();
  EXPECT_GT(Count(EffectKind::kEvict, 1), 0) << "this shows nothing";
  EXPECT_EQ(Count(EffectKind::kDrop), 0);
  EXPECT_EQ(world().ended.at(held).produced, 2000);
  int64_t prefilled = 0;
  for (const auto& [at, plan] : world().runs) {
    for (size_t i = static_cast<size_t>(plan.decodes); i < plan.sequences.size(); ++i)
      prefilled += plan.sequences[i].count;
  }
  EXPECT_LE(prefilled, 200) << "each prompt once";
}

TEST_F(PolicyTest, KvGoesToTheHostForWeightsThatNeedItsRoom) {
  Start({4});
  world().AddModel(Warm(1, 4));
  PoolModel large = Warm(2, 4);
  large.segment_bytes.back() += kRoomForKv - 40 * kBlock;  // leaves little beside it
  world().AddModel(large);
  const PoolJobId held = Ask(1, 2000, 3000);
  world().RunUntil(6 * kSecond);
  const PoolJobId urgent = AskFor(2, 2 * kSecond, 100 * kMillisecond);
  world().Finish();
  EXPECT_GT(Count(EffectKind::kSpill, 1), 0);
  EXPECT_EQ(Count(EffectKind::kRestore, 1), Count(EffectKind::kSpill, 1));
  EXPECT_EQ(Count(EffectKind::kDrop), 0);
  EXPECT_EQ(world().ended.at(held).produced, 2000);
  EXPECT_LT(FirstToken(urgent), 15 * kSecond);
}

// ---- placement and admission

TEST_F(PolicyTest, ARequestJoinsTheBatchOfItsModel) {
  Start({8, 8});
  world().AddModel(Warm(1, 4));
  Ask(1, 200);
  world().RunUntil(2 * kSecond);
  for (int32_t i = 0; i < 7; ++i) Ask(1, 200);
  world().Finish();
  EXPECT_EQ(Count(EffectKind::kLoad), 1) << "a sequence more costs little, a second copy much";
}

TEST_F(PolicyTest, AnotherModelGoesWhereThereIsNothingToDo) {
  Start({8, 8});
  for (PoolModelId model : {1, 2}) world().AddModel(Warm(model, 4));
  for (int32_t i = 0; i < 16; ++i) Ask(1, 400);
  world().RunUntil(kSecond);
  const PoolJobId other = Ask(2);
  world().Decide();
  world().RunUntil(world().now() + 2 * kSecond);
  EXPECT_NE(world().resident(0, 2) > 0, world().resident(1, 2) > 0);
  const PoolDeviceId of_first = world().resident(0, 1) > 0 ? 0 : 1;
  EXPECT_EQ(world().resident(1 - of_first, 2), 4);
  world().Finish();
  EXPECT_LT(FirstToken(other), kSecond);
}

TEST_F(PolicyTest, WorkMovesToADeviceThatIsEmpty) {
  Start({8, 8});
  for (PoolModelId id : {1, 2}) {
    PoolModel model = Warm(id, 4);
    model.tpot = 16 * kMillisecond;
    world().AddModel(model);
  }
  world().SetCordoned(1, true);
  // Two models of which each needs more than half of a device: 16 sequences at 16 ms a token.
  for (int32_t i = 0; i < 16; ++i) {
    for (PoolModelId model : {1, 2}) Ask(model, 600);
  }
  world().RunUntil(2 * kSecond);
  EXPECT_EQ(world().scheduler().counters().moves, 0u);
  world().SetCordoned(1, false);
  world().Decide();
  world().RunUntil(20 * kSecond);
  EXPECT_EQ(world().scheduler().counters().moves, 1u);
  EXPECT_TRUE(world().resident(1, 1) == 4 || world().resident(1, 2) == 4);
  world().Finish();
  EXPECT_EQ(Count(EffectKind::kDrop), 0) << "with their KV";
}

// On the host, running and waiting: all that came before the cordon ends on the only device there is.
TEST_F(PolicyTest, ACordonEndsNothing) {
  Start({4});
  world().AddModel(Warm(1, 4));
  PoolModel large = Warm(2, 4);
  large.segment_bytes.back() += kRoomForKv - 40 * kBlock;  // leaves little beside it
  large.max_sequences = large.max_logit_rows = 2;
  world().AddModel(large);
  const PoolJobId held = Ask(1, 2000, 3000);
  world().RunUntil(6 * kSecond);
  std::vector<PoolJobId> urgent;
  for (int32_t i = 0; i < 6; ++i) urgent.push_back(AskFor(2, 2 * kSecond, 100 * kMillisecond));
  for (int32_t i = 0;
       i < 1000 && (Count(EffectKind::kSpill, 1) == 0 || world().runs.back().second.model != 2); ++i)
    world().RunUntil(world().now() + kMillisecond);
  ASSERT_GT(Count(EffectKind::kSpill, 1), 0);
  ASSERT_EQ(Count(EffectKind::kRestore, 1), 0) << "it is on the host";
  ASSERT_GT(world().scheduler().waiting(2), 0);
  world().SetCordoned(0, true);
  const PoolJobId late = Ask(1);
  world().Finish();
  EXPECT_EQ(world().rejected.size(), 1u);
  EXPECT_TRUE(world().rejected.contains(late)) << "what comes after it";
  EXPECT_EQ(world().ended.at(held).produced, 2000);
  for (const PoolJobId job : urgent) EXPECT_TRUE(world().ended.contains(job));
}

TEST_F(PolicyTest, WhatOneDeviceHadNoRoomForAnotherMayTake) {
  Start({8, 8});
  world().AddModel(Warm(1, 4));
  world().faults.no_room = 1000;
  Ask(1);
  world().RunUntil(kSecond);
  world().faults.no_room = 0;
  const PoolDeviceId first = world().resident(0, 1) > 0 ? 0 : 1;
  world().SetCordoned(first, true);
  world().Decide();
  world().RunUntil(world().now() + 2 * kSecond);
  EXPECT_EQ(world().ended.size(), 1u) << "the second device has never been asked";
}

TEST_F(PolicyTest, WhatCannotBePromisedIsRefusedAtOnceWithAReason) {
  Start({8}, 1);
  PoolModel model = Warm(1, 4);
  model.max_sequences = model.max_logit_rows = 2;
  world().AddModel(model);
  Use(1);
  // Two at a time, 3 s each, promised the first token within 2 s.
  for (int32_t i = 0; i < 40; ++i) AskFor(1, 2 * kSecond, 10 * kMillisecond, 300);
  world().Decide();
  ASSERT_FALSE(world().rejected.empty());
  ASSERT_LT(world().rejected.size(), 40u);
  for (const auto& [id, rejected] : world().rejected) {
    EXPECT_EQ(rejected.effect.reason, Reason::kOverloaded);
    EXPECT_GE(rejected.effect.retry_after_s, 1);
    EXPECT_EQ(rejected.at, world().now()) << "at once";
  }
  world().Finish();
  // With a promise made, it is kept, or nearly: each is served within a round of the two places.
  for (const auto& [id, job] : world().ended) {
    if (job.job.ttft > 0) {
      EXPECT_LT(job.first_token - job.arrived, 8 * kSecond);
    }
  }
}

TEST_F(PolicyTest, AHotModelBeginsOnAnotherDeviceBeforeItsRequestsAreRefused) {
  Start({8, 8, 8}, 1);
  PoolModel model = Warm(1, 4);
  model.max_sequences = model.max_logit_rows = 4;
  world().AddModel(model);
  Use(1);
  // Four at a time on a device, 2.6 s each: 1.5 a second. Three a second come.
  for (int32_t i = 0; i < 60; ++i) {
    Ask(1, 300);
    world().RunUntil(world().now() + kSecond / 3);
  }
  world().Finish();
  EXPECT_EQ(world().rejected.size(), 0u);
  EXPECT_GE((world().resident(0, 1) > 0) + (world().resident(1, 1) > 0) + (world().resident(2, 1) > 0), 2);
}

TEST_F(PolicyTest, BatchWorkWaitsAndIsInNobodysWay) {
  Start({8}, 1);
  world().AddModel(Warm(1, 4));
  Use(1);
  for (int32_t i = 0; i < 64; ++i) {
    world().Arrive({.job = ++last_job_,
                    .model = 1,
                    .account = "a",
                    .job_class = JobClass::kBatch,
                    .prompt_tokens = 400,
                    .max_output_tokens = 400},
                   400);
  }
  world().RunUntil(world().now() + 2 * kSecond);
  const PoolJobId person = AskFor(1, kSecond, 50 * kMillisecond);
  world().Finish();
  EXPECT_TRUE(world().rejected.empty()) << "it is never refused for load";
  EXPECT_LT(FirstToken(person), 500 * kMillisecond);
}

// A full device of requests with equal promises: the one that came last goes first when a person waits for
// it.
TEST_F(PolicyTest, InteractiveWorkGoesBeforeNormalWorkDueAtTheSameTime) {
  Start({8});
  world().AddModel(Warm(1, 4));
  Use(1);
  std::vector<PoolJobId> normal;
  for (int32_t i = 0; i < 24; ++i) normal.push_back(Ask(1, 20, 400));
  const PoolJobId person = AskAs(JobClass::kInteractive, 1);
  const PoolJobId after = AskAs(JobClass::kNormal, 1);
  world().Finish();
  int64_t before_person = 0;
  for (const PoolJobId job : normal) before_person += FirstToken(job) < FirstToken(person);
  EXPECT_LE(before_person, 4) << "those of steps under way";
  EXPECT_GT(FirstToken(after), FirstToken(person));
}

TEST_F(PolicyTest, InteractiveWorkIsRefusedLast) {
  const auto admitted = [&](JobClass job_class) {
    Start({8}, 1);
    world().AddModel(Warm(1, 4));
    Use(1);
    int32_t count = 0;
    for (; count < 2000 && world().rejected.empty(); ++count) {
      AskAs(job_class, 1);
      world().RunUntil(world().now() + kMillisecond / 100);
    }
    const bool refused = !world().rejected.empty();
    world().Finish();
    EXPECT_TRUE(refused);
    return count;
  };
  const int32_t normal = admitted(JobClass::kNormal), interactive = admitted(JobClass::kInteractive);
  EXPECT_GT(interactive, normal * 1.05);
  EXPECT_LT(interactive, normal * 1.4) << "promises to a person are kept too";
}

// What nobody served for the age bound goes first even then.
TEST_F(PolicyTest, InteractiveWorkDoesNotStarveOldWork) {
  Start({4});
  world().AddModel(Warm(1, 4));
  world().AddModel(Warm(2, 4));
  Use(1);
  const PoolJobId old = AskFor(2, kMillisecond, kMillisecond);
  for (int32_t i = 0; i < 900; ++i) {
    AskAs(JobClass::kInteractive, 1);
    world().RunUntil(world().now() + 50 * kMillisecond);
  }
  EXPECT_LT(FirstToken(old), 40 * kSecond);
  world().Finish();
}

// ---- accounts

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

// A device that is full of one account's answers, on time or late, keeps refusing it. By slack alone whoever
// comes now would wait until his promise is as near as theirs.
TEST_F(PolicyTest, WhatARefusedAccountSentBeforeWaitsForOthers) {
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
  for (int32_t i = 0; i < 240; ++i) {  // two minutes
    if (i % 5 == 0) quiet.push_back(send("quiet", 1));
    send("noisy", 2 + static_cast<PoolModelId>(i % 2));
    world().RunUntil(world().now() + kSecond / 2);
  }
  world().Finish();
  EXPECT_GT(world().rejected.size(), 100u);
  for (const PoolJobId job : quiet) {
    ASSERT_FALSE(world().rejected.contains(job));
    // Its prompt takes .9 s, as long as a step that it comes upon, and one of its own may be before it.
    EXPECT_LT(static_cast<double>(FirstToken(job)) * 1e-9, 3.5) << job;
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
  for (const PoolJobId job : quiet) EXPECT_LT(FirstToken(job), kSecond);
  world().Finish();
  EXPECT_EQ(world().ended.size(), static_cast<size_t>(last_job_));
}

}  // namespace
}  // namespace tidepool::compute::pool
