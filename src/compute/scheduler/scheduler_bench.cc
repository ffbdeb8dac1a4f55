// How long decisions take: requests over models of one device or several, all waiting, running or switching.
// Prints the mean and the 99th percentile of Decide and of an event with its decision.
//   scheduler_bench [requests [models [devices [accounts [host GB]]]]]   default: 1000 100 1 1 1000
// With few GB of KV on the host most requests wait for promises of memory.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "compute/scheduler/pool_scheduler.h"

namespace tidepool::compute {
namespace {

double Now() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int Run(int requests, int models, int devices, int accounts, int host_gb) {
  auto scheduler = MakeTidepoolScheduler({.admission_load = 0, .max_turn_steps = 16});
  scheduler->AddHost({.kv_bytes = static_cast<uint64_t>(host_gb) * 1'000'000'000});
  for (int d = 0; d < devices; ++d) {
    scheduler->AddDevice({.arena_bytes = uint64_t{70'000'000'000}, .copy_bytes_per_s = 25e9});
  }
  for (int m = 1; m <= models; ++m) {
    PoolModel model;
    model.model = static_cast<PoolModelId>(m);
    model.batch_tokens = model.max_step_tokens = 2048;
    model.max_sequences = model.max_logit_rows = 256;
    model.segment_bytes.assign(28, 15'200'000'000 / 28);
    model.kv_block_bytes = 57344 * 16;
    model.profiles = {{5.7e-3, 22.4e-6, 0, 8.25e-3, 0.08e-6, 103e-6}};
    model.warm_hosts = {0};
    scheduler->AddModel(model);
  }
  struct Pending {
    int kind;  // 0 step, 1 load, 2 spill, 3 restore
    int device;
    PoolModelId model;
    PoolJobId job;
  };
  struct Live {
    PoolModelId model;
    int prompt, output, computed = 0, produced = 0;
  };
  std::mt19937_64 random(1);
  std::multimap<Nanoseconds, Pending> pending;
  std::map<PoolJobId, Live> live;
  std::vector<double> took;
  Nanoseconds now = 0;
  PoolJobId last = 0;
  std::vector<Effect> effects;
  const auto arrive = [&] {
    Live job{.model = random() % static_cast<uint64_t>(models) + 1,
             .prompt = 100 + static_cast<int>(random() % 1000),
             .output = 50 + static_cast<int>(random() % 400)};
    const PoolJobId id = ++last;
    live.emplace(id, job);
    PoolJob arriving;
    arriving.job = id;
    arriving.model = job.model;
    arriving.account = std::to_string(id % static_cast<PoolJobId>(accounts));
    arriving.prompt_tokens = job.prompt;
    arriving.max_output_tokens = 2048;
    scheduler->Arrive(arriving, now);
  };
  const auto decide = [&] {
    for (;;) {
      effects.clear();
      const double began = Now();
      scheduler->Decide(now, effects);
      took.push_back(Now() - began);
      if (effects.empty()) return;
      for (const Effect& effect : effects) {
        switch (effect.kind) {
          case EffectKind::kAdmit: scheduler->Admitted(effect.job, 0); break;
          case EffectKind::kGrow: scheduler->Grown(effect.job); break;
          case EffectKind::kRun: {
            const PoolPlan& plan = scheduler->plan(effect.device);
            pending.emplace(now + plan.steps * 12 * kMillisecond, Pending{0, effect.device, effect.model, 0});
            break;
          }
          case EffectKind::kLoad:
            pending.emplace(now + 600 * kMillisecond, Pending{1, effect.device, effect.model, 0});
            break;
          case EffectKind::kStopLoad:
            for (auto entry = pending.begin(); entry != pending.end(); ++entry) {
              if (entry->second.kind == 1 && entry->second.device == effect.device) {
                pending.erase(entry);
                break;
              }
            }
            scheduler->LoadStopped(effect.device, effect.model, 0, now);
            break;
          case EffectKind::kSpill:
            pending.emplace(now + 3 * kMillisecond, Pending{2, 0, 0, effect.job});
            break;
          case EffectKind::kRestore:
            pending.emplace(now + 3 * kMillisecond, Pending{3, 0, 0, effect.job});
            break;
          case EffectKind::kDrop: live.at(effect.job).computed = 0; break;
          default: break;
        }
      }
    }
  };
  for (int i = 0; i < requests; ++i) arrive();
  decide();
  took.clear();
  while (took.size() < 20'000) {
    const Nanoseconds wake = scheduler->wake_at();
    if (pending.empty() || pending.begin()->first > wake) {
      now = std::max(now + 1, wake);
      decide();
      continue;
    }
    const Pending event = pending.begin()->second;
    now = std::max(now, pending.begin()->first);
    pending.erase(pending.begin());
    std::vector<PoolJobId> ended;
    switch (event.kind) {
      case 0: {
        const PoolPlan& plan = scheduler->plan(event.device);
        for (const PlannedTokens& planned : plan.sequences) {
          Live& job = live.at(planned.job);
          const bool prefill = planned.begin < job.prompt + job.produced && job.produced == 0;
          job.computed += planned.count * plan.steps;
          if (!prefill) job.produced += plan.steps;
          if (prefill && job.computed >= job.prompt) ++job.produced;
          if (job.produced >= job.output) ended.push_back(planned.job);
        }
        scheduler->StepDone(event.device, plan.steps, plan.steps * 12 * kMillisecond, now);
        break;
      }
      case 1: scheduler->LoadDone(event.device, event.model, now); break;
      case 2: scheduler->SpillDone(event.job, true, now); break;
      default: scheduler->RestoreDone(event.job, true, now);
    }
    for (const PoolJobId job : ended) {
      scheduler->Remove(job, now);
      live.erase(job);
      arrive();  // as many as before
    }
    decide();
  }
  std::sort(took.begin(), took.end());
  double sum = 0;
  for (const double t : took) sum += t;
  std::printf(
      "%d requests, %d models, %d devices, %d accounts, %d GB: %zu decisions, mean %.1f us, p50 %.1f, p99 "
      "%.1f, "
      "most %.1f us\n",
      requests, models, devices, accounts, host_gb, took.size(), sum / static_cast<double>(took.size()),
      took[took.size() / 2], took[took.size() * 99 / 100], took.back());
  return 0;
}

}  // namespace
}  // namespace tidepool::compute

int main(int argc, char** argv) {
  const auto number = [&](int index, int otherwise) {
    return argc > index ? std::atoi(argv[index]) : otherwise;
  };
  return tidepool::compute::Run(number(1, 1000), number(2, 100), number(3, 1), number(4, 1), number(5, 1000));
}
