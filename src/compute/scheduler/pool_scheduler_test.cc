// The contract of pool_scheduler.h under random histories: every event in every state, and faults.
#include <gtest/gtest.h>

#include <cstdlib>

#include "compute/scheduler/pool_world.h"

namespace tidepool::compute::pool {
namespace {

struct HistoryRule {
  int32_t devices = 2, hosts = 1, models = 6, events = 3000;
  bool faults = true;
  double overcommit = 1;
  uint64_t host_kv = uint64_t{4} << 30;
  int32_t max_turn_steps = 1 << 20;
  double admission_load = 0;
};

struct History {
  uint64_t digest = 0, events = 0;
  size_t ended = 0, rejected = 0;
  int64_t spills = 0, restores = 0, loads = 0, drops = 0, evictions = 0, moves = 0;
};

class RandomHistory {
 public:
  RandomHistory(const HistoryRule& rule, uint64_t seed)
      : rule_(rule),
        world_(MakeTidepoolScheduler({.admission_load = rule.admission_load,
                                      .overcommit = rule.overcommit,
                                      .max_turn_steps = rule.max_turn_steps}),
               seed) {
    for (int32_t host = 0; host < rule.hosts; ++host) {
      world_.AddHost({.kv_bytes = rule.host_kv, .load_bytes_per_s = 4e9});
    }
    for (int32_t device = 0; device < rule.devices; ++device) {
      world_.AddDevice({.host = device % rule.hosts, .arena_bytes = kArena, .copy_bytes_per_s = 20e9});
    }
    for (int32_t model = 1; model <= rule.models; ++model) AddModel();
  }

  History Run() {
    if (rule_.faults) {
      world_.faults = {.no_room = 30,
                       .load_fails = 20,
                       .load_lacks_room = 20,
                       .spill_fails = 50,
                       .restore_fails = 50,
                       .partial_run = 100,
                       .spill_refused = 50};
    }
    for (int32_t i = 0; i < rule_.events && !world_.failed(); ++i) Event();
    if (!world_.failed()) Heal();
    History history{.digest = world_.digest,
                    .events = world_.events(),
                    .ended = world_.ended.size(),
                    .rejected = world_.rejected.size()};
    const PoolCounters counters = world_.scheduler().counters();
    history.spills = static_cast<int64_t>(counters.spills);
    history.restores = static_cast<int64_t>(counters.restores);
    history.loads = static_cast<int64_t>(counters.loads);
    history.drops = static_cast<int64_t>(counters.drops);
    history.evictions = static_cast<int64_t>(counters.evictions);
    history.moves = static_cast<int64_t>(counters.moves);
    return history;
  }

 private:
  static constexpr uint64_t kArena = 12 * kTestSegment;

  void AddModel() {
    PoolModel model = TestModel(++last_model_, 1 + world_.Below(6), uint64_t{1} << (20 + world_.Below(5)));
    model.batch_tokens = model.max_step_tokens = 64;
    model.max_sequences = 1 + world_.Below(8);
    model.max_logit_rows = model.max_sequences;
    if (world_.Below(6) == 0) {
      model.causal = false;
      model.max_step_tokens = 200;
    }
    if (world_.Below(8) == 0) model.segment_bytes.clear();
    if (world_.Below(3) == 0 && !models_.empty()) {  // another name of a file that is there
      PoolModel& other = models_.at(AnyModel());
      if (other.weights_id == 0) {
        other.weights_id = other.model;
        world_.UpdateModel(other);
      }
      model.weights_id = other.weights_id;
      model.segment_bytes = other.segment_bytes;
    }
    Vary(model);
    models_[model.model] = model;
    world_.AddModel(model);
  }

  void Vary(PoolModel& model) {
    size_t pinned = 0;
    for (const auto& [id, other] : models_) pinned += other.pinned && id != model.model;
    model.pinned = pinned == 0 && world_.Below(4) == 0 && model.segment_bytes.size() < 5;
    model.idle_ttl = world_.Below(3) == 0 ? world_.Below(5000) * kMillisecond : -1;
    model.min_resident = world_.Below(3) == 0 ? world_.Below(1000) * kMillisecond : 0;
    model.ttft = (1 + world_.Below(10)) * kSecond;
    model.tpot = (20 + world_.Below(100)) * kMillisecond;
  }

  PoolModelId AnyModel() {
    auto entry = models_.begin();
    std::advance(entry, world_.Below(models_.size()));
    return entry->first;
  }
  PoolJobId AnyJob() {
    auto entry = world_.live.lower_bound(static_cast<PoolJobId>(world_.Below(last_job_ + 1)));
    return entry == world_.live.end() ? world_.live.begin()->first : entry->first;
  }
  PoolDeviceId AnyDevice() { return world_.Below(static_cast<uint64_t>(rule_.devices)); }

  void Event() {
    const int32_t kind = world_.Below(1000);
    if (kind < 600) {
      if (world_.NextAt() < INT64_MAX) {
        world_.Advance();
        return;
      }
      world_.Pass(kSecond / 10);
    } else if (kind < 780) {
      if (world_.live.size() < 60) Arrive();
    } else if (kind < 840) {
      if (!world_.live.empty()) world_.Cancel(AnyJob());
    } else if (kind < 880) {
      if (!world_.live.empty()) {
        const PoolJobId job = AnyJob();
        world_.Pause(job, !world_.live.at(job).paused);
      }
    } else if (kind < 895) {
      world_.ReturnRoom();
    } else if (kind < 900) {
      // The driver's own memory is short for a while.
      if (rule_.faults) world_.faults.no_room = world_.faults.no_room > 100 ? 30 : 1000;
    } else if (kind < 915) {
      world_.SetArena(AnyDevice(), kArena * static_cast<uint64_t>(40 + world_.Below(80)) / 100);
    } else if (kind < 925) {
      world_.SetHostKv(world_.Below(static_cast<uint64_t>(rule_.hosts)),
                       rule_.host_kv * static_cast<uint64_t>(world_.Below(120)) / 100);
    } else if (kind < 935) {
      const PoolDeviceId device = AnyDevice();
      world_.SetCordoned(device, world_.Below(5) == 0);
    } else if (kind < 945) {
      PoolModel& model = models_[AnyModel()];
      Vary(model);
      world_.UpdateModel(model);
    } else if (kind < 950) {
      const PoolModelId model = AnyModel();
      if (world_.RemoveModel(model)) {
        models_.erase(model);
        AddModel();
      }
    } else {
      world_.Pass((1 + world_.Below(300)) * kMillisecond);
      if (world_.NextAt() < world_.now()) return;  // that comes first
    }
    // Now and then several events come before the next decision.
    if (!world_.failed() && world_.Below(5) != 0) world_.Decide();
  }

  void Arrive() {
    const PoolModel& model = models_.at(AnyModel());
    PoolJob job{.job = ++last_job_,
                .model = model.model,
                .account = std::string(1, static_cast<char>('a' + world_.Below(3))),
                .account_weights = {1.0 + world_.Below(2), 1.0 + world_.Below(3)},
                .job_class = static_cast<JobClass>(world_.Below(10) == 0 ? 2 : world_.Below(2)),
                .prompt_tokens = 1 + world_.Below(model.causal ? 400 : 200)};
    const int32_t output = 1 + world_.Below(150);
    job.max_output_tokens = model.causal ? output + world_.Below(100) : 0;
    if (world_.Below(4) == 0) job.open_output_tokens = 16 + world_.Below(64);
    job.wants_logits = model.causal;
    job.prompt_logits = model.causal && world_.Below(20) == 0;
    world_.Arrive(job, output);
  }

  // Faults stop, everything that was taken comes back: now everything must end.
  void Heal() {
    world_.faults = {};
    for (PoolDeviceId device = 0; device < rule_.devices; ++device) {
      world_.SetArena(device, kArena);
      world_.SetCordoned(device, false);
    }
    for (PoolHostId host = 0; host < rule_.hosts; ++host) world_.SetHostKv(host, rule_.host_kv);
    std::vector<PoolJobId> paused;
    for (const auto& [id, job] : world_.live) {
      if (job.paused) paused.push_back(id);
    }
    for (const PoolJobId job : paused) world_.Pause(job, false);
    world_.ReturnRoom();
    world_.Finish();
    if (world_.failed()) return;
    for (PoolDeviceId device = 0; device < rule_.devices; ++device) {
      EXPECT_EQ(world_.scheduler().device_state(device, world_.now()).kv_bytes, 0u) << "KV that nobody owns";
    }
  }

  HistoryRule rule_;
  PoolWorld world_;
  std::map<PoolModelId, PoolModel> models_;
  PoolModelId last_model_ = 0;
  PoolJobId last_job_ = 0;
};

int32_t Scale() {
  const char* scale = std::getenv("TIDEPOOL_PROPERTY_SCALE");
  return scale == nullptr ? 1 : std::max(1, std::atoi(scale));
}

const std::vector<HistoryRule> kRules = {
    {},
    {.devices = 1, .models = 3, .admission_load = 1.15},
    {.devices = 1, .models = 8, .host_kv = 0},
    {.devices = 4, .hosts = 2, .models = 10},
    {.devices = 2, .models = 12, .admission_load = 0.8},
    {.devices = 3, .hosts = 3, .models = 5, .overcommit = 2, .host_kv = uint64_t{1} << 29},
    {.devices = 2, .models = 6, .max_turn_steps = 1},
    {.devices = 2, .models = 6, .faults = false},
    {.devices = 1, .models = 4, .overcommit = 4, .host_kv = 0},
};

TEST(PoolSchedulerPropertyTest, RandomHistoriesKeepTheContract) {
  History all;
  for (size_t rule = 0; rule < kRules.size(); ++rule) {
    for (int32_t seed = 1; seed <= 12 * Scale(); ++seed) {
      SCOPED_TRACE("rule " + std::to_string(rule) + ", seed " + std::to_string(seed));
      const History history = RandomHistory(kRules[rule], static_cast<uint64_t>(seed)).Run();
      if (HasFailure()) return;
      all.events += history.events;
      all.ended += history.ended;
      all.rejected += history.rejected;
      all.spills += history.spills;
      all.restores += history.restores;
      all.loads += history.loads;
      all.drops += history.drops;
      all.evictions += history.evictions;
      all.moves += history.moves;
    }
  }
  RecordProperty("events", std::to_string(all.events));
  std::printf(
      "%zu events, %zu ended, %zu rejected, %zd spills, %zd restores, %zd loads, %zd drops, %zd evictions, "
      "%zd moves\n",
      all.events, all.ended, all.rejected, all.spills, all.restores, all.loads, all.drops, all.evictions,
      all.moves);
  // The histories reach what they are for.
  EXPECT_GT(all.spills, 100);
  EXPECT_GT(all.restores, 100);
  EXPECT_GT(all.drops, 10);
  EXPECT_GT(all.loads, 1000);
  EXPECT_GT(all.ended, 5000u);
}

TEST(PoolSchedulerPropertyTest, TheSameEventsGiveTheSameEffects) {
  for (size_t rule = 0; rule < kRules.size(); ++rule) {
    const uint64_t first = RandomHistory(kRules[rule], 77).Run().digest;
    const uint64_t second = RandomHistory(kRules[rule], 77).Run().digest;
    EXPECT_EQ(first, second) << "rule " << rule;
    EXPECT_NE(first, RandomHistory(kRules[rule], 78).Run().digest);
  }
}

}  // namespace
}  // namespace tidepool::compute::pool
