#include "compute/simulator/simulator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <queue>
#include <tuple>

#include "base/check.h"
#include "compute/scheduler/baselines/baselines.h"
#include "compute/simulator/sim_links.h"

namespace tidepool::compute {
namespace {

enum class EventKind : uint8_t { kStep, kLink, kArrival, kCancel, kTick };

struct Event {
  Nanoseconds at;
  EventKind kind;
  int32_t index;
  uint64_t version;
  uint64_t order;
  bool operator>(const Event& other) const {
    if (at != other.at) return at > other.at;
    if (kind != other.kind) return kind > other.kind;
    return order > other.order;
  }
};

struct Running {
  bool on = false;
  Nanoseconds began = 0;
  int32_t steps = 0;
  int32_t told = 0;  // of these, to the scheduler
  uint64_t version = 0;
  // On landing weights: its seconds, and when its last layer may be computed; < 0: not known yet.
  bool landing = false;
  double step_s = 0;
  int32_t landed = 0;             // segments, when it began
  Nanoseconds first_lands = 0;    // the next of them
  std::vector<Nanoseconds> ends;  // of each step
};

struct SimJob {
  int32_t computed = 0, prompt = 0, produced = 0;
  bool live = false;
  // compute_slo() of the artifact (aegaeon/plots/plot_e2e.py), in seconds since the arrival: time in
  // intervals that met the target over all time. After a miss the clock begins again, but the allowance keeps
  // growing.
  double soft_start = 0, soft_held = 0, soft_target = 0, soft_met = 0;

  void SoftToken(double at, double tpot) {
    if (at - soft_start <= soft_target) {
      soft_held = soft_target;
    } else {
      soft_met += soft_held;
      soft_start = at;
      soft_held = 0;
    }
    soft_target += tpot;
  }
  double SoftShare(double end) const {
    return end <= 0 ? 0 : (soft_met + std::min(soft_target, end - soft_start)) / end;
  }
};

int64_t Percentile(std::vector<Nanoseconds>& values, double share) {
  if (values.empty()) return 0;
  const auto at =
      std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(at), values.end());
  return values[at];
}

class Simulation {
 public:
  Simulation(const SimConfig& config, std::span<const SimRequest> requests,
             std::unique_ptr<PoolScheduler> scheduler)
      : config_(config), requests_(requests), scheduler_(std::move(scheduler)) {}

  SimResult Run();

 private:
  void Build();
  void Schedule(Nanoseconds at, EventKind kind, int32_t index, uint64_t version = 0) {
    events_.push({at, kind, index, version, ++order_});
  }
  void DecideAll();
  void Carry(const Effect& effect);
  void StartRun(const Effect& effect);
  void TellSteps();
  void EndRun(int32_t device, int32_t steps);
  void Landed(int32_t device, int32_t model);
  void Yield(int32_t device);
  void StartTransfer(const Effect& effect);
  void LinkChanged();
  void FinishTransfers();
  void EndJob(PoolJobId job);
  uint64_t KvBytes(const SimModel& model, int32_t tokens) const {
    return static_cast<uint64_t>((tokens + 15) / 16) * 16 * model.kv_token_bytes;
  }
  SimResult Summarise();

  const SimConfig& config_;
  std::span<const SimRequest> requests_;
  std::unique_ptr<PoolScheduler> scheduler_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  uint64_t order_ = 0;
  Nanoseconds now_ = 0;
  std::vector<Running> running_;
  std::vector<SimJob> jobs_;
  std::vector<SimRequestResult> details_;
  std::vector<Nanoseconds> busy_;
  std::vector<std::vector<float>> busy_by_model_;  // seconds
  bool stopped_ = false;
  SimLinks links_;
  uint64_t link_version_ = 0;
  std::vector<SimTransfer> finished_;
  std::vector<Effect> effects_;
  Nanoseconds tick_at_ = INT64_MAX;
  int64_t live_ = 0;
};

void Simulation::Build() {
  std::vector<uint64_t> warm_left;
  for (const SimHost& host : config_.hosts) {
    scheduler_->AddHost({.kv_bytes = host.memory_bytes / 4, .load_bytes_per_s = host.load_bytes_per_s});
    warm_left.push_back(host.memory_bytes / 4 * 3);
  }
  for (const SimDevice& device : config_.devices) {
    const SimDeviceKind& kind = config_.kinds[static_cast<size_t>(device.kind)];
    scheduler_->AddDevice({.host = device.host,
                           .kind = device.kind,
                           .arena_bytes = kind.arena_bytes,
                           .copy_bytes_per_s = kind.copy_bytes_per_s});
  }
  links_.Build(config_);
  std::vector<PoolModel> pools;
  for (size_t m = 0; m < config_.models.size(); ++m) {
    const SimModel& model = config_.models[m];
    PoolModel pool;
    pool.model = m + 1;
    pool.name = model.name;
    pool.batch_tokens = pool.max_step_tokens = std::max(config_.batch_tokens, config_.max_sequences + 16);
    pool.max_sequences = pool.max_logit_rows = config_.max_sequences;
    const auto layers = static_cast<uint64_t>(std::max(model.layers, 1));
    for (uint64_t layer = 0; layer < layers; ++layer) {
      pool.segment_bytes.push_back(model.weight_bytes / layers +
                                   (layer == 0 ? model.weight_bytes % layers : 0));
    }
    pool.kv_block_bytes = model.kv_token_bytes * 16;
    pool.profiles = model.profiles;
    pool.ttft = std::llround(config_.ttft_s * 1e9);
    pool.tpot = std::llround(config_.tpot_s * 1e9);
    pools.push_back(std::move(pool));
  }
  // Host memory is filled before the first request comes: every model on one host, then on the next, while
  // there is room.
  for (size_t h = 0; h < warm_left.size(); ++h) {
    for (size_t m = 0; m < pools.size(); ++m) {
      const uint64_t bytes = config_.models[m].weight_bytes;
      const size_t host = (m + h) % warm_left.size();
      if (warm_left[host] < bytes) continue;
      warm_left[host] -= bytes;
      pools[m].warm_hosts.push_back(static_cast<PoolHostId>(host));
      links_.SetWarm(static_cast<int32_t>(host), static_cast<int32_t>(m), true);
    }
  }
  for (const PoolModel& pool : pools) scheduler_->AddModel(pool);
  running_.resize(config_.devices.size());
  busy_.resize(config_.devices.size());
  busy_by_model_.assign(config_.devices.size(), std::vector<float>(config_.models.size(), 0));
  jobs_.resize(requests_.size());
  details_.resize(requests_.size());
}

SimResult Simulation::Run() {
  const auto wall_began = std::chrono::steady_clock::now();
  Build();
  size_t next = 0;
  if (!requests_.empty()) Schedule(requests_[0].arrival, EventKind::kArrival, 0);
  DecideAll();
  // Nothing takes longer than this after the last arrival; what has not ended by then is counted unfinished.
  const Nanoseconds horizon = (requests_.empty() ? 0 : requests_.back().arrival) + 3600 * kSecond;
  uint64_t handled = 0;
  while (!events_.empty() && !stopped_) {
    const Event event = events_.top();
    if (event.at > horizon || (next == requests_.size() && live_ == 0)) break;
    events_.pop();
    now_ = std::max(now_, event.at);
    TellSteps();
    switch (event.kind) {
      case EventKind::kStep: {
        Running& run = running_[static_cast<size_t>(event.index)];
        if (!run.on || run.version != event.version) continue;
        EndRun(event.index, run.steps);
        break;
      }
      case EventKind::kLink:
        if (event.version != link_version_) continue;
        FinishTransfers();
        break;
      case EventKind::kArrival: {
        const SimRequest& request = requests_[next];
        SimJob& job = jobs_[next];
        job.live = true;
        job.prompt = request.prompt;
        job.soft_target = config_.ttft_s;
        ++live_;
        SimAccount account;
        if (request.account > 0) {
          const auto index = static_cast<size_t>(request.account) - 1;
          account = index < config_.accounts.size()
                        ? config_.accounts[index]
                        : SimAccount{.path = std::to_string(request.account), .weights = {}};
        }
        scheduler_->Arrive({.job = next + 1,
                            .model = static_cast<PoolModelId>(request.model) + 1,
                            .account = std::move(account.path),
                            .account_weights = std::move(account.weights),
                            .job_class = request.job_class,
                            .prompt_tokens = request.prompt,
                            .max_output_tokens = std::max(config_.max_output_tokens, request.output)},
                           now_);
        if (request.cancel_at >= 0) {
          Schedule(std::max(request.cancel_at, now_), EventKind::kCancel, static_cast<int32_t>(next));
        }
        ++next;
        if (next < requests_.size()) Schedule(requests_[next].arrival, EventKind::kArrival, 0);
        break;
      }
      case EventKind::kCancel:
        if (jobs_[static_cast<size_t>(event.index)].live) EndJob(static_cast<PoolJobId>(event.index) + 1);
        break;
      case EventKind::kTick:
        if (event.at != tick_at_) continue;
        tick_at_ = INT64_MAX;
        break;
    }
    DecideAll();
    if (++handled % 4096 == 0 && config_.progress && !requests_.empty()) {
      stopped_ = !config_.progress(static_cast<double>(next) / static_cast<double>(requests_.size()));
    }
  }
  SimResult result = Summarise();
  result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - wall_began).count();
  return result;
}

void Simulation::DecideAll() {
  for (int32_t rounds = 0;; ++rounds) {
    CHECK(rounds < 100000);  // a policy that never comes to rest
    effects_.clear();
    scheduler_->Decide(now_, effects_);
    if (effects_.empty()) break;
    for (const Effect& effect : effects_) Carry(effect);
  }
  LinkChanged();
  if (const Nanoseconds wake = scheduler_->wake_at(); wake < tick_at_) {
    tick_at_ = std::max(wake, now_ + 1);
    Schedule(tick_at_, EventKind::kTick, 0);
  }
}

void Simulation::Carry(const Effect& effect) {
  if (config_.observe) config_.observe(now_, effect);
  switch (effect.kind) {
    case EffectKind::kAdmit: scheduler_->Admitted(effect.job, 0); break;
    case EffectKind::kGrow: scheduler_->Grown(effect.job); break;
    case EffectKind::kRun: StartRun(effect); break;
    case EffectKind::kYield: Yield(effect.device); break;
    case EffectKind::kLoad:
    case EffectKind::kSpill:
    case EffectKind::kRestore: StartTransfer(effect); break;
    case EffectKind::kStopLoad: {
      const auto landed = links_.StopLoad(effect.device, now_);
      scheduler_->LoadStopped(effect.device, effect.model, landed, now_);
      break;
    }
    case EffectKind::kEvict:
      links_.Evicted(effect.device, static_cast<int32_t>(effect.model) - 1, effect.segments);
      break;
    case EffectKind::kDrop: {
      SimJob& job = jobs_[effect.job - 1];
      job.prompt = requests_[effect.job - 1].prompt + job.produced;
      job.computed = 0;
      break;
    }
    case EffectKind::kReject: {
      details_[effect.job - 1].rejected = true;
      jobs_[effect.job - 1].live = false;
      --live_;
      break;
    }
  }
}

void Simulation::StartRun(const Effect& effect) {
  Running& run = running_[static_cast<size_t>(effect.device)];
  CHECK(!run.on);
  const PoolPlan& plan = scheduler_->plan(effect.device);
  const SimModel& model = config_.models[plan.model - 1];
  const StepProfile& profile =
      model.profiles[std::min(static_cast<size_t>(config_.devices[static_cast<size_t>(effect.device)].kind),
                              model.profiles.size() - 1)];
  run.on = true;
  run.began = now_;
  run.ends.clear();
  run.told = 0;
  ++run.version;
  double prefill = 0, prefill2 = 0, context = 0;
  int32_t steps = plan.steps;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedTokens& planned = plan.sequences[i];
    SimJob& job = jobs_[planned.job - 1];
    CHECK(job.live && job.computed == planned.begin);
    if (static_cast<int32_t>(i) < plan.decodes) {
      context += planned.begin;
      steps = std::min(steps, requests_[planned.job - 1].output - job.produced);
    } else {
      prefill += planned.count;
      prefill2 += static_cast<double>(planned.count) * planned.count;
      steps = 1;
    }
  }
  CHECK(steps >= 1);
  Nanoseconds end = now_;
  for (int32_t step = 0; step < steps; ++step) {
    end += std::max<Nanoseconds>(
        1, std::llround(1e9 * profile.StepSeconds(prefill, prefill2, context, plan.decodes)));
    run.ends.push_back(end);
    context += plan.decodes;
  }
  run.steps = steps;
  run.landing = plan.landing;
  if (run.landing) {
    run.step_s = static_cast<double>(end - now_) * 1e-9;
    std::tie(run.landed, run.first_lands) = links_.NextSegment(effect.device, now_);
    return;  // it ends some time after its load
  }
  Schedule(end, EventKind::kStep, effect.device, run.version);
}

// Layers came one after the other since the step began, at an even rate: what holds it up is the first that
// was missing or the last.
void Simulation::Landed(int32_t device, int32_t model) {
  Running& run = running_[static_cast<size_t>(device)];
  if (!run.on || !run.landing || scheduler_->plan(device).model != static_cast<PoolModelId>(model) + 1)
    return;
  const double layers = std::max(config_.models[static_cast<size_t>(model)].layers, 1);
  const auto after = [&](Nanoseconds at, double segments) {
    return at + std::max<Nanoseconds>(1, std::llround(1e9 * run.step_s * segments / layers));
  };
  const Nanoseconds end =
      std::max({after(run.began, layers), after(run.first_lands, layers - run.landed), after(now_, 1)});
  run.ends.assign(1, end);
  run.landing = false;
  Schedule(end, EventKind::kStep, device, run.version);
}

// The step in progress is the last.
void Simulation::Yield(int32_t device) {
  Running& run = running_[static_cast<size_t>(device)];
  if (!run.on) return;
  const auto end = std::upper_bound(run.ends.begin(), run.ends.end(), now_);
  if (end == run.ends.end()) return;
  const auto steps = static_cast<int32_t>(end - run.ends.begin()) + 1;
  if (steps == run.steps) return;
  run.steps = steps;
  ++run.version;
  Schedule(*end, EventKind::kStep, device, run.version);
}

// What is decided now rests on the steps that runs under way have taken, as if each had been reported alone.
void Simulation::TellSteps() {
  for (size_t device = 0; device < running_.size(); ++device) {
    Running& run = running_[device];
    if (!run.on || run.landing) continue;
    const auto taken = static_cast<int32_t>(std::min<ptrdiff_t>(
        std::upper_bound(run.ends.begin() + run.told, run.ends.end(), now_) - run.ends.begin(),
        run.steps - 1));
    if (taken <= run.told) continue;
    const Nanoseconds from = run.told == 0 ? run.began : run.ends[static_cast<size_t>(run.told) - 1];
    const Nanoseconds to = run.ends[static_cast<size_t>(taken) - 1];
    scheduler_->StepsTaken(static_cast<PoolDeviceId>(device), taken - run.told, to - from, to);
    run.told = taken;
  }
}

void Simulation::EndRun(int32_t device, int32_t steps) {
  Running& run = running_[static_cast<size_t>(device)];
  const PoolPlan& plan = scheduler_->plan(device);
  run.on = false;
  const Nanoseconds busy = run.ends[static_cast<size_t>(steps) - 1] - run.began;
  busy_[static_cast<size_t>(device)] += busy;
  busy_by_model_[static_cast<size_t>(device)][plan.model - 1] += static_cast<float>(busy) * 1e-9F;
  std::vector<PoolJobId> ended;
  for (const PlannedTokens& planned : plan.sequences) {
    const size_t index = planned.job - 1;
    SimJob& job = jobs_[index];
    if (!job.live) continue;  // cancelled while it ran
    const SimRequest& request = requests_[index];
    SimRequestResult& detail = details_[index];
    const bool was_prefill = job.computed < job.prompt;
    job.computed += planned.count * (was_prefill ? 1 : steps);
    int32_t first = 0, last = 0;  // steps that gave a token
    if (!was_prefill) {
      last = steps;
    } else if (job.computed >= job.prompt) {
      last = 1;
    }
    for (; first < last; ++first) {
      const Nanoseconds at = run.ends[static_cast<size_t>(first)];
      const Nanoseconds due = request.arrival + std::llround(config_.ttft_s * 1e9) +
                              std::llround(config_.tpot_s * 1e9) * job.produced;
      detail.on_time += at <= due;
      job.SoftToken(static_cast<double>(at - request.arrival) * 1e-9, config_.tpot_s);
      if (job.produced == 0) {
        detail.first_token = at;
      } else {
        detail.largest_gap = std::max(detail.largest_gap, at - detail.last_token);
      }
      detail.last_token = at;
      ++job.produced;
      ++detail.produced;
    }
    if (job.produced >= request.output) ended.push_back(planned.job);
  }
  const Nanoseconds told = run.told == 0 ? 0 : run.ends[static_cast<size_t>(run.told) - 1] - run.began;
  scheduler_->StepDone(device, steps - run.told, busy - told, now_);
  for (const PoolJobId job : ended) EndJob(job);
}

void Simulation::EndJob(PoolJobId job) {
  jobs_[job - 1].live = false;
  --live_;
  scheduler_->Remove(job, now_);
}

void Simulation::StartTransfer(const Effect& effect) {
  const auto model_index = static_cast<int32_t>(effect.model) - 1;
  const SimModel& model = config_.models[static_cast<size_t>(model_index)];
  SimTransfer transfer{.kind = effect.kind, .device = effect.device, .model = model_index, .job = effect.job};
  if (effect.kind == EffectKind::kLoad) {
    transfer.segments = effect.segments;
  } else {
    transfer.bytes = static_cast<double>(KvBytes(model, jobs_[effect.job - 1].computed));
  }
  links_.Start(transfer, now_);
}

void Simulation::LinkChanged() {
  if (!links_.TakeChanged()) return;
  const Nanoseconds next = links_.NextEnd(now_);
  ++link_version_;
  if (next < INT64_MAX) Schedule(next, EventKind::kLink, 0, link_version_);
}

void Simulation::FinishTransfers() {
  links_.TakeFinished(now_, finished_);
  for (const SimTransfer& transfer : finished_) {
    switch (transfer.kind) {
      case EffectKind::kLoad:
        for (const auto& [host, model, warm] : links_.TakeWarmChanges()) {
          scheduler_->Warmed(host, static_cast<PoolModelId>(model) + 1, warm);
        }
        Landed(transfer.device, transfer.model);
        scheduler_->LoadDone(transfer.device, static_cast<PoolModelId>(transfer.model) + 1, now_);
        break;
      case EffectKind::kSpill: scheduler_->SpillDone(transfer.job, true, now_); break;
      default: scheduler_->RestoreDone(transfer.job, true, now_);
    }
  }
}

SimResult Simulation::Summarise() {
  SimResult result;
  result.policy = scheduler_->name();
  result.models = static_cast<int32_t>(config_.models.size());
  result.devices = static_cast<int32_t>(config_.devices.size());
  result.requests = static_cast<int64_t>(requests_.size());
  std::vector<Nanoseconds> ttft, stalls;
  int64_t on_time = 0, clean = 0, admitted = 0;
  double soft = 0;
  Nanoseconds last = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    const SimRequestResult& detail = details_[i];
    const SimRequest& request = requests_[i];
    result.tokens += request.output;
    if (!detail.rejected) admitted += request.output;
    on_time += detail.on_time;
    clean += detail.on_time == request.output;
    result.rejected += detail.rejected;
    result.unfinished += !detail.rejected && detail.produced < request.output;
    if (detail.first_token >= 0) ttft.push_back(detail.first_token - request.arrival);
    if (detail.produced > 0) stalls.push_back(detail.largest_gap);
    last = std::max(last, detail.last_token);
    if (detail.produced > 0) {
      soft += jobs_[i].SoftShare(static_cast<double>(detail.last_token - request.arrival) * 1e-9);
    }
  }
  result.qos_sosp25 = requests_.empty() ? 0 : soft / static_cast<double>(requests_.size());
  result.stopped = stopped_;
  result.busy_s = std::move(busy_by_model_);
  const auto share = [](int64_t part, int64_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
  };
  result.tokens_on_time = share(on_time, result.tokens);
  if (admitted > 0) result.admitted_on_time = share(on_time, admitted);
  result.requests_on_time = share(clean, result.requests);
  const auto seconds = [](Nanoseconds t) { return static_cast<double>(t) * 1e-9; };
  result.ttft_p50_s = seconds(Percentile(ttft, .5));
  result.ttft_p99_s = seconds(Percentile(ttft, .99));
  result.max_stall_p50_s = seconds(Percentile(stalls, .5));
  result.max_stall_p99_s = seconds(Percentile(stalls, .99));
  Nanoseconds busy = 0;
  for (const Nanoseconds b : busy_) busy += b;
  const Nanoseconds span = last - (requests_.empty() ? 0 : requests_.front().arrival);
  result.makespan_s = seconds(span);
  result.utilisation = span <= 0 ? 0 : seconds(busy) / (seconds(span) * static_cast<double>(busy_.size()));
  result.counters = scheduler_->counters();
  result.switches = result.counters.switches;
  result.bytes_moved =
      result.counters.bytes_loaded + result.counters.bytes_spilled + result.counters.bytes_restored;
  result.details = std::move(details_);
  return result;
}

}  // namespace

std::vector<std::string> SimPolicies() {
  return {"tidepool", "aegaeon", "lru", "static", "dedicated", "serverlessllm"};
}

Result<std::unique_ptr<PoolScheduler>> MakePolicy(const SimConfig& config) {
  if (config.policy == "tidepool") return MakeTidepoolScheduler(config.options);
  if (config.policy == "dedicated") return MakeDedicatedScheduler(config.options);
  if (config.policy == "static") return MakeStaticScheduler(config.options);
  if (config.policy == "lru") return MakeLruScheduler(config.options);
  if (config.policy == "serverlessllm") return MakeServerlessLlmScheduler(config.options);
  if (config.policy == "aegaeon") {
    std::vector<int32_t> devices(config.hosts.size());
    for (const SimDevice& device : config.devices) ++devices[static_cast<size_t>(device.host)];
    for (const int32_t count : devices) {
      if (count > std::max(config.prefill_devices, 1)) continue;
      return Fail(
          ErrorKind::kInvalid, "too_few_devices",
          fmt::format(
              "policy \"aegaeon\" needs a device that decodes on every host: {} of {} devices prefill",
              std::max(config.prefill_devices, 1), count),
          "devices");
    }
    return MakeAegaeonScheduler(config.options, {.prefill_devices = config.prefill_devices});
  }
  std::string known;
  for (const std::string& name : SimPolicies()) known += (known.empty() ? "" : ", ") + name;
  return Fail(ErrorKind::kInvalid, "unknown_policy",
              fmt::format("policy \"{}\" is not known; known are {}", config.policy, known), "policy");
}

Result<SimResult> Simulate(const SimConfig& config, std::span<const SimRequest> requests) {
  for (const SimRequest& request : requests) {
    if (request.model < 0 || static_cast<size_t>(request.model) >= config.models.size()) {
      return Fail(
          ErrorKind::kInvalid, "unknown_model",
          fmt::format("a request names model {}, but there are {}", request.model, config.models.size()),
          "workload");
    }
  }
  TP_ASSIGN(auto policy, MakePolicy(config));
  return Simulation(config, requests, std::move(policy)).Run();
}

}  // namespace tidepool::compute
