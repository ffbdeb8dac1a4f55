#include "compute/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace tidepool::compute {
namespace {

// Plays the engine: reserves memory in units, runs plans, removes jobs at their end.
class World {
 public:
  struct JobInfo {
    Job job;
    int32_t new_tokens = 0;
    int32_t memory = 0;
    int32_t computed = 0;
    int64_t arrived_step = 0, admitted_step = -1, first_token_step = -1, last_step = 0;
    bool paused = false;
  };

  explicit World(int64_t memory) : memory_(memory) {}

  void AddModel(const SchedulerModel& model) {
    models_[model.model] = model;
    scheduler.AddModel(model);
  }
  void Arrive(Job job, int32_t new_tokens, int32_t memory) {
    ASSERT_LE(memory, memory_);
    job.wants_logits = new_tokens > 0;
    scheduler.Arrive(job);
    live[job.job] = {.job = job, .new_tokens = new_tokens, .memory = memory, .arrived_step = step_};
  }
  void Remove(JobId job) {
    const auto entry = live.find(job);
    if (entry->second.admitted_step >= 0) used_ -= entry->second.memory;
    scheduler.Remove(job);
    live.erase(entry);
  }
  void Pause(JobId job, bool paused) {
    live.at(job).paused = paused;
    scheduler.SetPaused(job, paused);
  }
  void Admit() {
    while (const JobId id = scheduler.NextAdmission()) {
      JobInfo& job = live.at(id);
      EXPECT_FALSE(job.paused);
      EXPECT_LT(job.admitted_step, 0);
      if (used_ + job.memory <= memory_) {
        used_ += job.memory;
        job.admitted_step = step_;
        const int32_t cached = static_cast<int32_t>(id % 3) * (job.job.prompt_tokens - 1) / 4;
        job.computed = cached;
        scheduler.Admitted(id, cached);
        admission_order.push_back(id);
      } else {
        scheduler.NoRoom(id);
      }
    }
    EXPECT_LE(used_, memory_);
  }
  // One step; false: nothing to run.
  bool Step() {
    ++step_;
    Admit();
    if (!scheduler.Plan(plan)) return false;
    Check();
    scheduler.StepDone(plan);
    for (const PlannedSequence& planned : plan.sequences) {
      JobInfo& job = live.at(planned.job);
      job.computed += planned.count;
      job.last_step = step_;
      if (job.computed >= job.job.prompt_tokens && job.first_token_step < 0) job.first_token_step = step_;
      log.push_back({static_cast<int64_t>(plan.model), static_cast<int64_t>(planned.job), planned.begin,
                     planned.count, planned.logit_rows});
      // The first token comes with the prompt's last logits.
      const int32_t said = job.computed - job.job.prompt_tokens + 1;
      if (job.computed >= job.job.prompt_tokens && said >= job.new_tokens) {
        ended[planned.job] = job;
        Remove(planned.job);
      }
    }
    return true;
  }
  void Check() {
    const SchedulerModel& model = models_.at(plan.model);
    int32_t tokens = 0, rows = 0;
    std::set<JobId> seen;
    EXPECT_LE(plan.sequences.size(), static_cast<size_t>(model.max_sequences));
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const PlannedSequence& planned = plan.sequences[i];
      const JobInfo& job = live.at(planned.job);
      EXPECT_TRUE(seen.insert(planned.job).second);
      EXPECT_EQ(job.job.model, plan.model);
      EXPECT_FALSE(job.paused);
      EXPECT_GE(job.admitted_step, 0);
      EXPECT_EQ(planned.begin, job.computed);
      EXPECT_GE(planned.count, 1);
      const bool decode = job.computed >= job.job.prompt_tokens;
      EXPECT_EQ(decode, i < static_cast<size_t>(plan.decodes));
      if (decode) {
        EXPECT_EQ(planned.count, 1);
        EXPECT_EQ(planned.logit_rows, 1);
      } else {
        const bool last = planned.begin + planned.count == job.job.prompt_tokens;
        EXPECT_LE(planned.begin + planned.count, job.job.prompt_tokens);
        if (!model.causal) {
          EXPECT_TRUE(last && planned.begin == 0);
        }
        EXPECT_EQ(planned.logit_rows,
                  job.job.prompt_logits ? planned.count : (last && job.job.wants_logits ? 1 : 0));
      }
      tokens += planned.count;
      rows += planned.logit_rows;
    }
    EXPECT_EQ(tokens, plan.tokens);
    EXPECT_EQ(rows, plan.logit_rows);
    EXPECT_LE(rows, model.max_logit_rows);
    EXPECT_LE(tokens, plan.sequences.size() == 1 ? model.max_step_tokens : model.batch_tokens);
  }

  Scheduler scheduler;
  StepPlan plan;
  std::map<JobId, JobInfo> live, ended;
  std::vector<std::array<int64_t, 5>> log;
  std::vector<JobId> admission_order;
  int64_t step() const { return step_; }
  int64_t used() const { return used_; }

 private:
  std::map<ScheduledModel, SchedulerModel> models_;
  int64_t memory_;
  int64_t used_ = 0;
  int64_t step_ = 0;
};

SchedulerModel Small(ScheduledModel model) {
  return {.model = model, .batch_tokens = 32, .max_step_tokens = 32, .max_sequences = 4, .max_logit_rows = 4};
}

TEST(SchedulerTest, DecodesGoFirstAndPrefillFillsTheRest) {
  World world(1000);
  world.AddModel(Small(1));
  world.Arrive({.job = 3, .model = 1, .account = "a", .prompt_tokens = 10}, 50, 1);
  ASSERT_TRUE(world.Step());
  EXPECT_EQ(world.plan.tokens, 10);
  world.Arrive({.job = 6, .model = 1, .account = "a", .prompt_tokens = 100}, 5, 1);
  ASSERT_TRUE(world.Step());
  EXPECT_EQ(world.plan.decodes, 1);
  EXPECT_EQ(world.plan.tokens, 32) << "one decode and 31 tokens of the new prompt";
  while (world.live.contains(6)) {
    ASSERT_TRUE(world.Step());
    EXPECT_EQ(world.plan.sequences[0].job, 3u) << "the running answer is in every step";
  }
}

TEST(SchedulerTest, ModelsTakeTurns) {
  World world(1000);
  for (ScheduledModel model = 1; model <= 3; ++model) {
    world.AddModel(Small(model));
    world.Arrive({.job = 3 * model, .model = model, .account = "a", .prompt_tokens = 8}, 20, 1);
  }
  std::vector<ScheduledModel> served;
  for (int i = 0; i < 9; ++i) {
    ASSERT_TRUE(world.Step());
    served.push_back(world.plan.model);
  }
  EXPECT_EQ(served, (std::vector<ScheduledModel>{1, 2, 3, 1, 2, 3, 1, 2, 3}));
}

TEST(SchedulerTest, ANoisyAccountDoesNotHoldBackAnother) {
  World world(4);  // four jobs at a time
  world.AddModel(Small(1));
  for (JobId job = 1; job <= 100; ++job) {
    world.Arrive({.job = 3 * job, .model = 1, .account = "noisy", .prompt_tokens = 30}, 10, 1);
  }
  for (int i = 0; i < 20; ++i) world.Step();
  world.Arrive({.job = 1000, .model = 1, .account = "quiet", .prompt_tokens = 30}, 10, 1);
  const size_t before = world.admission_order.size();
  while (!world.ended.contains(1000)) ASSERT_TRUE(world.Step());
  const auto at = std::find(world.admission_order.begin(), world.admission_order.end(), 1000u);
  EXPECT_LE(static_cast<size_t>(at - world.admission_order.begin()) - before, 2u);
}

TEST(SchedulerTest, ALargeJobIsPassedOnlySoOften) {
  World world(10);
  world.AddModel(
      {.model = 1, .batch_tokens = 64, .max_step_tokens = 64, .max_sequences = 32, .max_logit_rows = 32});
  JobId next = 1;
  auto small = [&] {
    world.Arrive(
        {.job = 3 * next++, .model = 1, .account = "s" + std::to_string(next % 7), .prompt_tokens = 4}, 6, 1);
  };
  for (int i = 0; i < 30; ++i) small();
  world.Step();
  world.Arrive({.job = 100'000, .model = 1, .account = "large", .prompt_tokens = 4}, 4, 10);
  int64_t steps = 0;
  while (!world.ended.contains(100'000)) {
    ASSERT_TRUE(world.Step());
    for (int i = 0; i < 4; ++i) small();  // more work than the memory holds, for ever
    ASSERT_LT(++steps, 500);
  }
}

TEST(SchedulerTest, PausedJobsKeepTheirPlaceButDoNotRun) {
  World world(100);
  world.AddModel(Small(1));
  for (JobId job = 1; job <= 4; ++job) {
    world.Arrive({.job = 3 * job, .model = 1, .account = "a", .prompt_tokens = 4}, 50, 1);
  }
  ASSERT_TRUE(world.Step());
  for (JobId job = 1; job <= 4; ++job) world.Pause(3 * job, true);
  EXPECT_FALSE(world.Step());
  world.Arrive({.job = 30, .model = 1, .account = "a", .prompt_tokens = 4}, 3, 1);
  ASSERT_TRUE(world.Step()) << "their slots are free for others meanwhile";
  for (JobId job = 5; job <= 7; ++job) {
    world.Arrive({.job = 30 * job, .model = 1, .account = "a", .prompt_tokens = 4}, 50, 1);
  }
  world.Step();
  for (JobId job = 1; job <= 4; ++job) world.Pause(3 * job, false);
  while (!world.live.empty()) ASSERT_TRUE(world.Step());
}

TEST(SchedulerTest, EncodersRunWholeInputs) {
  World world(100);
  world.AddModel({.model = 1,
                  .causal = false,
                  .batch_tokens = 32,
                  .max_step_tokens = 100,
                  .max_sequences = 8,
                  .max_logit_rows = 1});
  const std::vector<int32_t> lengths = {10, 10, 10, 90, 5, 30, 100, 1};
  for (size_t i = 0; i < lengths.size(); ++i) {
    world.Arrive({.job = 3 * (i + 1), .model = 1, .account = "a", .prompt_tokens = lengths[i]}, 0, 1);
  }
  int steps = 0;
  while (!world.live.empty()) {
    ASSERT_TRUE(world.Step());
    ++steps;
  }
  EXPECT_LE(steps, 6);
}

// One random history, driven by `seed`; returns the log of plans.
struct Outcome {
  std::vector<std::array<int64_t, 5>> log;
  int64_t longest_wait_steps = 0;
  size_t ended = 0;
};
void RunRandom(uint64_t seed, Outcome& outcome) {
  std::mt19937_64 random(seed);
  auto below = [&](uint64_t n) { return static_cast<int32_t>(random() % n); };
  World world(60);
  for (ScheduledModel model = 1; model <= 3; ++model) {
    SchedulerModel limits = Small(model);
    if (model == 3) {
      limits.causal = false;
      limits.max_step_tokens = 80;
    }
    world.AddModel(limits);
  }
  JobId next = 1;
  for (int step = 0; step < 600; ++step) {
    for (int arrivals = below(3); arrivals > 0; --arrivals) {
      const auto model = static_cast<ScheduledModel>(1 + below(3));
      Job job{
          .job = next++, .model = model, .account = std::to_string(below(5)), .prompt_tokens = 1 + below(80)};
      job.prompt_logits = model != 3 && below(10) == 0;
      if (model == 3) job.job = 3 * job.job + 3'000'000;  // nothing cached
      if (job.prompt_logits) job.job = 3 * job.job + 9'000'000;
      world.Arrive(job, model == 3 ? 0 : 1 + below(20), 1 + below(30));
    }
    if (!world.live.empty() && below(4) == 0) {
      auto victim = world.live.begin();
      std::advance(victim, below(world.live.size()));
      const JobId id = victim->first;
      if (below(2) == 0) {
        world.Remove(id);
      } else {
        world.Pause(id, !victim->second.paused);
      }
    }
    world.Step();
  }
  for (auto& [id, job] : world.live) {
    if (job.paused) world.Pause(id, false);
  }
  int64_t guard = 0;
  while (!world.live.empty()) {
    ASSERT_TRUE(world.Step()) << world.live.size() << " jobs wait for ever";
    ASSERT_LT(++guard, 100'000);
  }
  EXPECT_EQ(world.used(), 0);
  outcome.log = world.log;
  outcome.ended = world.ended.size();
  for (const auto& [id, job] : world.ended) {
    outcome.longest_wait_steps =
        std::max(outcome.longest_wait_steps, job.first_token_step - job.arrived_step);
  }
}

TEST(SchedulerTest, RandomHistoriesEndWithinLimitsAndRepeat) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    Outcome first, second;
    RunRandom(seed, first);
    RunRandom(seed, second);
    EXPECT_EQ(first.log, second.log) << "the same events give the same plans";
    EXPECT_GT(first.ended, 100u);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace tidepool::compute
