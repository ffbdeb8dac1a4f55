// For tests of Tidepool's policy: devices with room for some segments of weights and 600 blocks of KV, and
// what the policy asked for.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <memory>

#include "compute/scheduler/pool_world.h"

namespace tidepool::compute::pool {

inline constexpr uint64_t kBlock = 1 << 20;
inline constexpr uint64_t kRoomForKv = 600 * kBlock;
inline constexpr double kCopyRate = 20e9;

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

}  // namespace tidepool::compute::pool
