#include "compute/scheduler/trace.h"

#include <gtest/gtest.h>

#include <sstream>

#include "compute/scheduler/pool_world.h"

namespace tidepool::compute {
namespace {

// A pool under load, recorded: more models than memory, cancels, failing loads and moves.
SchedulerTrace Recorded(size_t bound) {
  TraceRecorder* recorder = nullptr;
  const PoolPolicyOptions options = {.admission_load = 0};
  auto inner = MakeTidepoolScheduler(options);
  auto outer = std::make_unique<TraceRecorder>(std::move(inner), bound, options);
  recorder = outer.get();
  pool::PoolWorld world(std::move(outer), 5);
  world.faults = {.no_room = 20, .load_fails = 20, .spill_fails = 20, .partial_run = 50};
  world.AddHost({.kv_bytes = uint64_t{4} << 30});
  for (int i = 0; i < 2; ++i)
    world.AddDevice({.host = 0, .arena_bytes = 10 * pool::kTestSegment, .copy_bytes_per_s = 20e9});
  for (PoolModelId model = 1; model <= 6; ++model) world.AddModel(pool::TestModel(model, 4));
  for (PoolJobId job = 1; job <= 120; ++job) {
    world.Arrive({.job = job,
                  .model = 1 + job * 7 % 6,
                  .account = job % 3 == 0 ? "a" : "b",
                  .prompt_tokens = 50 + static_cast<int32_t>(job % 90),
                  .max_output_tokens = 80},
                 10 + static_cast<int32_t>(job % 60));
    world.RunUntil(world.now() + 50 * kMillisecond);
    if (job % 10 == 0 && world.live.contains(job - 2)) world.Cancel(job - 2);
  }
  world.faults = {};
  world.Finish();
  return recorder->trace();
}

TEST(TraceTest, AReplayGivesTheSameEffects) {
  const SchedulerTrace trace = Recorded(1'000'000);
  ASSERT_TRUE(trace.complete);
  const auto scheduler = MakeTidepoolScheduler({.admission_load = 0});
  const auto replay = Replay(trace, *scheduler);
  ASSERT_TRUE(replay.has_value());
  EXPECT_TRUE(replay->equal) << replay->difference;
  EXPECT_EQ(replay->records, trace.records.size());
  EXPECT_GT(replay->decisions, 500u);
}

TEST(TraceTest, AFileHoldsAllOfIt) {
  const SchedulerTrace trace = Recorded(1'000'000);
  std::stringstream file;
  WriteTrace(trace, file);
  const auto read = ReadTrace(file);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  ASSERT_EQ(read->records.size(), trace.records.size());
  const auto scheduler = MakeTidepoolScheduler({.admission_load = 0});
  const auto replay = Replay(*read, *scheduler);
  ASSERT_TRUE(replay.has_value());
  EXPECT_TRUE(replay->equal) << replay->difference;
}

TEST(TraceTest, AFileSaysWhichSchedulerItWas) {
  SchedulerTrace trace = Recorded(1'000'000);
  trace.options.age_bound_s = 7.25;
  std::stringstream file;
  WriteTrace(trace, file);
  auto read = ReadTrace(file);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(read->policy, "tidepool");
  EXPECT_EQ(read->options.admission_load, 0);
  EXPECT_EQ(read->options.age_bound_s, 7.25);
  read->options.age_bound_s = PoolPolicyOptions().age_bound_s;
  const auto replay = Replay(*read);
  ASSERT_TRUE(replay.has_value()) << replay.error().message;
  EXPECT_TRUE(replay->equal) << replay->difference;
  read->policy = "lru";
  EXPECT_EQ(Replay(*read).error().code, "unknown_policy");
  EXPECT_EQ(Replay(SchedulerTrace{}).error().code, "empty_trace");
}

TEST(TraceTest, ADifferenceIsFound) {
  SchedulerTrace trace = Recorded(1'000'000);
  for (TraceRecord& record : trace.records) {
    if (record.kind != TraceKind::kDecide || record.effects.empty()) continue;
    record.effects[0].tokens += 1;
    break;
  }
  const auto scheduler = MakeTidepoolScheduler({.admission_load = 0});
  const auto replay = Replay(trace, *scheduler);
  ASSERT_TRUE(replay.has_value());
  EXPECT_FALSE(replay->equal);
  EXPECT_NE(replay->difference.find("recorded"), std::string::npos);
}

TEST(TraceTest, TheRecordIsBounded) {
  const SchedulerTrace trace = Recorded(100);
  EXPECT_FALSE(trace.complete);
  EXPECT_EQ(trace.records.size(), 100u + 1 + 2 + 6) << "what there is, and the last hundred events";
  const auto scheduler = MakeTidepoolScheduler({});
  EXPECT_FALSE(Replay(trace, *scheduler).has_value());
}

TEST(TraceTest, ArrivalsAreAWorkload) {
  const auto arrivals = ArrivalsOf(Recorded(1'000'000));
  ASSERT_EQ(arrivals.size(), 120u);
  int32_t whole = 0;
  for (const TraceArrival& arrival : arrivals) {
    whole += arrival.rejected || arrival.produced == 10 + static_cast<int32_t>(arrival.job.job % 60);
  }
  EXPECT_GE(whole, 100) << "all but those that were cancelled or refused produced what they asked for";
}

TEST(TraceTest, BadLinesAreNamed) {
  for (const char* text : {"{", "{\"t\":0,\"e\":\"surprise\"}", "[]", "{\"t\":0,\"e\":\"arrive\"}",
                           "{\"t\":\"x\",\"e\":\"grown\"}"}) {
    std::istringstream in(std::string("{\"t\":0,\"e\":\"room_returned\"}\n") + text);
    const auto trace = ReadTrace(in);
    ASSERT_FALSE(trace.has_value()) << text;
    EXPECT_NE(trace.error().message.find("line 2"), std::string::npos) << trace.error().message;
  }
}

}  // namespace
}  // namespace tidepool::compute
