// One test for each rule of Tidepool's policy (the head of tidepool_scheduler.h), each of which fails when
// the rule is taken out. What the rules are worth together is tested in compute/simulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "compute/scheduler/policy_fixture.h"

namespace tidepool::compute::pool {
namespace {

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

// A request that waits for memory is no reason to give its model the turn: another's, that can run, would
// wait for nothing.
TEST_F(PolicyTest, ATurnIsForWhatCanRun) {
  Start({8}, 0, /*host_kv=*/0);
  world().AddModel(Warm(1, 4));
  PoolModel other = Warm(2, 4);
  other.pinned = true;  // or it would make room
  world().AddModel(other);
  Use(1);
  Use(2);
  Ask(1, 7900);  // 500 of 600 blocks, and soon far ahead of its pace
  world().RunUntil(world().now() + 5 * kSecond);
  const PoolJobId waits = AskFor(1, kSecond, 100 * kMillisecond, 3000);
  world().RunUntil(world().now() + 3 * kSecond);
  const PoolJobId comes = Ask(2);
  world().RunUntil(world().now() + 5 * kSecond);
  EXPECT_LT(FirstToken(comes), kSecond / 2);
  EXPECT_EQ(FirstToken(waits), INT64_MAX) << "its room is not there yet";
  world().Finish();
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

}  // namespace
}  // namespace tidepool::compute::pool
