// Prewarming by forecast: weights of models whose requests keep coming are brought before the next one asks.
// And the other way round: a pool that is made smaller under its work.
#include <gtest/gtest.h>

#include <algorithm>

#include "compute/scheduler/pool_world.h"

namespace tidepool::compute::pool {
namespace {

constexpr PoolModelId kBusy = 1, kNeverUsed = 2;
constexpr Nanoseconds kGap = 20 * kSecond;

class ForecastTest : public ::testing::Test {
 protected:
  ForecastTest() : world_(MakeTidepoolScheduler({.admission_load = 0, .max_turn_steps = 1}), 7) {
    world_.AddHost({.kv_bytes = 0, .load_bytes_per_s = 4e9});
    world_.AddDevice({.host = 0, .arena_bytes = kArena, .copy_bytes_per_s = 20e9});
    world_.AddModel(TestModel(kBusy, 4));
    world_.AddModel(TestModel(kNeverUsed, 4));
    world_.keep_log = true;
  }
  void Ask() {
    world_.Arrive(
        {.job = ++last_job_, .model = kBusy, .account = "a", .prompt_tokens = 64, .max_output_tokens = 4}, 4);
    world_.Decide();
    world_.Finish();
  }
  void AskRegularly() {
    for (int i = 0; i < 5; ++i) {
      Ask();
      world_.RunUntil(world_.now() + kGap);
    }
  }
  // Its weights have to go: the pool has become too small, and then large again.
  void LoseWeights() {
    world_.SetArena(0, kTestSegment / 2);
    world_.Decide();
    world_.RunUntil(world_.now() + kSecond);
    ASSERT_EQ(world_.resident(0, kBusy), 0);
    world_.log.clear();
    world_.SetArena(0, kArena);
    world_.Decide();
  }
  int64_t Loads(PoolModelId model) const {
    return std::count_if(world_.log.begin(), world_.log.end(), [&](const Effect& effect) {
      return effect.kind == EffectKind::kLoad && effect.model == model && effect.reason == Reason::kPrewarm;
    });
  }

  static constexpr uint64_t kArena = 12 * kTestSegment;
  PoolWorld world_;
  PoolJobId last_job_ = 0;
};

TEST_F(ForecastTest, WhatIsAskedForRegularlyComesBackBeforeItIsAskedFor) {
  AskRegularly();
  LoseWeights();
  world_.RunUntil(world_.now() + kGap / 2);
  EXPECT_EQ(Loads(kBusy), 1) << "without a request";
  EXPECT_EQ(world_.resident(0, kBusy), 4);
  EXPECT_EQ(Loads(kNeverUsed), 0);
  Ask();
  EXPECT_FALSE(world_.failed());
}

TEST_F(ForecastTest, WhatNobodyAsksForAnyMoreStaysAway) {
  AskRegularly();
  world_.RunUntil(world_.now() + 9 * kGap);
  LoseWeights();
  world_.RunUntil(world_.now() + kGap);
  EXPECT_EQ(Loads(kBusy), 0);
  EXPECT_EQ(world_.resident(0, kBusy), 0);
  Ask();  // and still comes when it is asked for
  EXPECT_EQ(world_.resident(0, kBusy), 4);
  EXPECT_FALSE(world_.failed());
}

TEST_F(ForecastTest, APoolThatShrinksUnderItsWorkDrainsWhenThatHasEnded) {
  world_.Arrive({.job = 1, .model = kBusy, .account = "a", .prompt_tokens = 64, .max_output_tokens = 400},
                400);
  world_.Decide();
  while (world_.live.at(1).produced < 10) ASSERT_TRUE(world_.Advance());
  world_.SetArena(0, kTestSegment);
  world_.Decide();
  world_.Finish();
  EXPECT_TRUE(world_.ended.contains(1)) << "not killed";
  EXPECT_EQ(world_.ended.at(1).produced, 400);
  EXPECT_LE(world_.resident(0, kBusy), 1) << "its weights leave without another request";
  EXPECT_FALSE(world_.failed());
}

}  // namespace
}  // namespace tidepool::compute::pool
