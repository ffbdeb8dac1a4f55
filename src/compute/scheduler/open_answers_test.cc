// Answers of which nobody said how long they may be, and answers that are long while another model waits.
#include <gtest/gtest.h>

#include <memory>

#include "compute/scheduler/pool_world.h"

namespace tidepool::compute::pool {
namespace {

constexpr int32_t kContext = 4096;  // 256 blocks
constexpr uint64_t kBlock = 1 << 20;

class OpenAnswersTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  // One model, and beside its weights room for `kv_blocks`, of which the parameter's share is on the host.
  void SetUp() override { Start(300); }
  void Start(uint64_t kv_blocks) {
    world_ = std::make_unique<PoolWorld>(MakeTidepoolScheduler({.admission_load = 0}), 3);
    world_->keep_log = true;
    const uint64_t on_host = GetParam();
    world_->AddHost({.kv_bytes = on_host * kBlock});
    world_->AddDevice({.host = 0,
                       .arena_bytes = 4 * kTestSegment + (kv_blocks - on_host) * kBlock,
                       .copy_bytes_per_s = 20e9});
    world_->AddModel(TestModel(1, 4, kBlock));
  }
  void Ask(PoolJobId job, int32_t output, int32_t open, int32_t most = kContext - 100) {
    world_->Arrive({.job = job,
                    .model = 1,
                    .account = "a",
                    .prompt_tokens = 100,
                    .max_output_tokens = most,
                    .open_output_tokens = open},
                   output);
  }
  int Drops(PoolJobId job) const {
    int count = 0;
    for (const Effect& effect : world_->log) count += effect.kind == EffectKind::kDrop && effect.job == job;
    return count;
  }
  std::unique_ptr<PoolWorld> world_;
};

TEST_P(OpenAnswersTest, RunSideBySideInMemoryForOneContext) {
  for (PoolJobId job = 1; job <= 10; ++job) Ask(job, 40, 64);
  world_->Finish();
  ASSERT_EQ(world_->ended.size(), 10u);
  for (const auto& [id, job] : world_->ended) {
    EXPECT_EQ(job.produced, 40);
    EXPECT_LT(job.first_token - job.arrived, kSecond) << "waited for another's context, job " << id;
    EXPECT_EQ(Drops(id), 0);
  }
  EXPECT_FALSE(world_->failed());
}

// Together they need twice the memory there is: the older ones keep theirs, and in the end all are answered.
TEST_P(OpenAnswersTest, GrowAtTheExpenseOfYoungerOnesAndAllEnd) {
  for (PoolJobId job = 1; job <= 6; ++job) Ask(job, 1500, 64);
  world_->Finish();
  ASSERT_EQ(world_->ended.size(), 6u);
  int drops = 0;
  for (const auto& [id, job] : world_->ended) {
    EXPECT_EQ(job.produced, 1500);
    drops += Drops(id);
  }
  EXPECT_GT(drops, 0) << "this shows nothing";
  EXPECT_EQ(Drops(1), 0) << "the oldest";
  EXPECT_LE(world_->ended.at(1).ended, world_->ended.at(6).ended);
  EXPECT_FALSE(world_->failed());
}

TEST_P(OpenAnswersTest, TakeNothingFromWhoSaidHowMuchHeNeeds) {
  Ask(1, 1000, 64);
  Ask(2, 1500, 0, 1500);
  Ask(3, 2000, 64);
  Ask(4, 1200, 0, 1200);
  world_->Finish();
  ASSERT_EQ(world_->ended.size(), 4u);
  EXPECT_EQ(Drops(2) + Drops(4), 0);
  EXPECT_FALSE(world_->failed());
}

// What runs has its KV on the device.
TEST_P(OpenAnswersTest, OneAloneMayFillTheDevice) {
  const auto most =
      static_cast<int32_t>(std::min<uint64_t>(kContext, (300 - GetParam()) * kBlockTokens)) - 100;
  Ask(1, most, 64, most);
  world_->Finish();
  ASSERT_EQ(world_->ended.size(), 1u);
  EXPECT_EQ(world_->ended.at(1).produced, most);
  EXPECT_EQ(Drops(1), 0);
  EXPECT_FALSE(world_->failed());
}

INSTANTIATE_TEST_SUITE_P(KvOnTheHost, OpenAnswersTest, ::testing::Values(uint64_t{0}, uint64_t{150}));

// Memory for one model: a long answer of one may not keep the other's first token from being on time.
TEST(LongAnswersTest, AModelWithWorkMakesWayWhenAnotherIsMoreUrgent) {
  for (const int32_t turn_steps : {1, 1 << 20}) {
    PoolWorld world(MakeTidepoolScheduler({.admission_load = 0, .max_turn_steps = turn_steps}), 3);
    world.AddHost({.kv_bytes = uint64_t{1} << 30});
    world.AddDevice({.host = 0, .arena_bytes = 4 * kTestSegment + 600 * kBlock, .copy_bytes_per_s = 20e9});
    for (PoolModelId model : {1, 2}) world.AddModel(TestModel(model, 4, kBlock));
    // 8,000 steps of 8.4 ms each: 67 s.
    world.Arrive({.job = 1, .model = 1, .account = "a", .prompt_tokens = 100, .max_output_tokens = 8000},
                 8000);
    world.RunUntil(2 * kSecond);
    world.Arrive({.job = 2, .model = 2, .account = "a", .prompt_tokens = 100, .max_output_tokens = 20}, 20);
    world.Finish();
    ASSERT_EQ(world.ended.size(), 2u);
    EXPECT_LT(world.ended.at(2).first_token - world.ended.at(2).arrived, 10 * kSecond);
    EXPECT_EQ(world.ended.at(1).produced, 8000);
    EXPECT_FALSE(world.failed());
  }
}

// The host's arena has no room in one piece, whatever the account of bytes says: asked again when something
// changed or after a while, not at once and for ever.
TEST(RefusedSpillTest, IsNotAskedForAgainAtOnce) {
  PoolWorld world(MakeTidepoolScheduler({.admission_load = 0}), 3);
  world.keep_log = true;
  world.faults.spill_refused = 1000;
  world.AddHost({.kv_bytes = uint64_t{1} << 30});
  world.AddDevice({.host = 0, .arena_bytes = 5 * kTestSegment + 100 * kBlock, .copy_bytes_per_s = 20e9});
  world.AddModel(TestModel(1, 4, kBlock));
  world.AddModel(TestModel(2, 5, kBlock));  // needs the room of the first one's KV too
  world.Arrive({.job = 1, .model = 1, .account = "a", .prompt_tokens = 4800, .max_output_tokens = 2000},
               2000);
  world.RunUntil(4 * kSecond);
  world.Pause(1, true);  // its reader is slow
  world.Arrive({.job = 2, .model = 2, .account = "a", .prompt_tokens = 100, .max_output_tokens = 20}, 20);
  world.RunUntil(14 * kSecond);
  const int64_t refused = world.counts[static_cast<int>(EffectKind::kSpill)];
  EXPECT_GT(refused, 0) << "this shows nothing";
  EXPECT_LT(refused, 10 * 4 + 10) << "ten seconds, four times a second";
  world.faults.spill_refused = 0;
  world.RunUntil(16 * kSecond);
  EXPECT_TRUE(world.ended.contains(2)) << "and then it works";
  world.Pause(1, false);
  world.Finish();
  EXPECT_EQ(world.ended.size(), 2u);
  EXPECT_FALSE(world.failed());
}

}  // namespace
}  // namespace tidepool::compute::pool
