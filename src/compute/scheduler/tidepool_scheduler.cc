#include "compute/scheduler/tidepool_scheduler.h"

#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"

namespace tidepool::compute {

std::unique_ptr<PoolScheduler> MakeTidepoolScheduler(const PoolPolicyOptions& options) {
  return std::make_unique<pool::TidepoolScheduler>(options);
}

namespace pool {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kPinnedUrgency = -1e8;    // before all jobs; -kNever is for draining only
constexpr double kLateGrace_s = 1;         // so late is still urgent
constexpr double kTurnAlarm_s = 1;         // slack at which another model's turn is broken for weights
constexpr double kTurnRun_s = 4;           // and how long it must have had its turns
constexpr double kTurnRunLoads = 2;        // likewise, in the time of both loads
constexpr double kTurnTokens = 4;          // hysteresis of turns between resident models, in tokens' time
constexpr double kPromise = 0.85;          // demand up to which promises are made
constexpr double kJoins = 2;               // of that, for one more of a model that is at work
constexpr double kRoundOfTtft = 0.5;       // a round of switches that keeps within promises
constexpr double kBatchShare = 0.8;        // of that, for batch work
constexpr double kBeyondShare = 0.55;      // of that, beyond an account's share
constexpr double kSwitchHysteresis = 1.0;  // of both loads' time
constexpr double kOverdue = 0.25;          // of a load's time
constexpr double kUnserved = 10;           // likewise, of a model that was not served since it came
constexpr int32_t kGrowTokens = 128;       // KV reserved ahead where spilling is possible
constexpr double kKvShare = 1.0 / 64;      // of the arena, left free for growth when weights are loaded
constexpr double kRound_s = 5;             // a round of switches that keeps within usual promises (ttft / 2)
constexpr double kComfort = 0.7;           // load up to which a device is as good as an empty one
constexpr Nanoseconds kTurnPause = kSecond;  // without work, after which a model's turns begin anew
constexpr Nanoseconds kBalanceInterval = kSecond / 2;
constexpr Nanoseconds kRetry = kSecond / 4;
constexpr Nanoseconds kMoveRest = 10 * kSecond;  // between two moves of one model
constexpr double kMoveGap = 0.2;
constexpr int32_t kMaxPassed = 64;
constexpr double kBurst = 0.25;         // of the TTFT: so far ahead of its share an account may be
constexpr double kBeyond_s = 0.5;       // jobs so far ahead leave a quarter of a batch to others
constexpr double kOwnRequests = 6;      // of an account that may come at once
constexpr double kOwnBurst = 0.25;      // of what is not an account's share, on a device, for a moment
constexpr double kStopLeft_s = 0.05;    // loads that end so soon are not stopped for others
constexpr int32_t kBeyondTokens = 512;  // prompt tokens a step of jobs beyond their account's share
constexpr int32_t kFullBatch = 64;

double Square(double x) { return x * x; }
double Congestion(double load) { return load <= kComfort ? 0 : 4 * Square(load - kComfort); }

}  // namespace

// ---- urgency -------------------------------------------------------------------------------------------

double TidepoolScheduler::Urgency(const Job& job, Nanoseconds now) const {
  const Device* device = job.replica == nullptr ? nullptr : job.replica->device;
  double slack = Slack(job, now);
  if (device != nullptr && job.prefilling()) {
    slack -= PrefillSeconds(*job.model, *device, job.prompt - job.computed);
  }
  if (slack < -kLateGrace_s) {
    const double unserved = static_cast<double>(now - job.served_at) * 1e-9;
    if (unserved > options_.age_bound_s) {
      slack = -2 * kLateGrace_s - 1e-3 * unserved;  // before all that are not so old
    } else {
      slack = -kLateGrace_s + std::min(-kLateGrace_s - slack, static_cast<double>(job.ttft) * 0.5e-9);
    }
  }
  return device == nullptr ? slack : slack + AheadSeconds(job, *device);
}

// What came beyond its account's share stays behind what came within it; when promises are not kept, what
// accounts have had decides too.
double TidepoolScheduler::AheadSeconds(const Job& job, const Device& device) const {
  if (!accounts_.shared()) return 0;
  const double ttft_s = static_cast<double>(job.ttft) * 1e-9;
  const double burst_s = BurstSeconds(job);
  if (device.late) {
    return std::clamp(job.ahead_s - burst_s, 0.0, ttft_s) + AccountTree::ServiceAhead(*job.account);
  }
  // What came a little ahead, as everybody's requests do now and then, does not wait; what came a whole burst
  // ahead waits for all that can still begin in time.
  const double ramp_s = 0.5 * kBurst * ttft_s;
  return ttft_s * std::clamp((job.ahead_s - burst_s) / ramp_s + 1, 0.0, 1.0);
}

// So far ahead of its share an account may be: a part of the time to the first token, or a few requests.
double TidepoolScheduler::BurstSeconds(const Job& job) {
  return std::max(kBurst * static_cast<double>(job.ttft) * 1e-9, kOwnRequests * job.account->request_s);
}

double TidepoolScheduler::ReplicaUrgency(const Replica& replica, Nanoseconds now) const {
  double least = kNever;
  for (const auto* list : {&replica.active, &replica.waiting, &replica.spilled}) {
    for (const Job* job : *list) {
      if (!job->paused) least = std::min(least, Urgency(*job, now));
    }
  }
  return least;
}

// ---- placement -----------------------------------------------------------------------------------------

bool TidepoolScheduler::MayUse(const Model& model, const Device& device) const {
  if (device.cordoned) return false;
  const auto& allowed = model.model.devices;
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), device.id) != allowed.end();
}

// Share of the copy engine that the bytes beyond what fits would keep busy, round after round.
double TidepoolScheduler::WeightPressure(const Device& device, uint64_t more_bytes, View view) const {
  uint64_t wanted = more_bytes + device.kv_bytes;
  for (const Replica* replica : device.replicas) {
    if (replica->jobs(view) > 0) wanted += replica->model->weight_bytes;
  }
  if (wanted <= device.arena) return 0;
  return static_cast<double>(wanted - device.arena) / (device.copy_rate * kRound_s);
}

TidepoolScheduler::Fit TidepoolScheduler::BestFit(const Job& job, Nanoseconds now) const {
  const Model& model = *job.model;
  Fit best;
  std::vector<double> reading_s;
  for (const auto& host : hosts_) reading_s.push_back(ReadingSeconds(*host));
  for (const auto& candidate : devices_) {
    Device& device = *candidate;
    if (!MayUse(model, device)) continue;
    if (model.weight_bytes + KvBytes(model, job.job.prompt_tokens + 1) > device.arena) continue;
    const Replica* replica = FindReplica(model, device);
    const View view = accounts_.shared() && !Beyond(job, now) ? View::kWithinShare : View::kAll;
    const bool joins = replica != nullptr && replica->jobs(view) > 0;
    const bool there = replica != nullptr && (replica->resident() || replica->loading);
    const double tpot = static_cast<double>(job.tpot) * 1e-9;
    const double before = LoadOf(device, view);
    double more = 0;
    if (joins) {
      more = ReplicaLoad(*replica, 1, job.prompt, view) - ReplicaLoad(*replica, 0, 0, view);
    } else {
      const StepProfile& profile = ProfileOf(model, device);
      more = model.decode_ratio * profile.StepSeconds(0, 0, job.prompt, 1) / tpot;
    }
    const double after = before + more;
    double cost = more + Congestion(after) - Congestion(before) + 0.05 * before;
    double load_s = 0;
    if (!joins) {
      const double pressed = WeightPressure(device, 0, view),
                   pressed_after = WeightPressure(device, model.weight_bytes, view);
      cost += 0.3 * (pressed_after - pressed) + Congestion(pressed_after) - Congestion(pressed);
    }
    if (!there && model.needs_weights()) {
      load_s = LoadSeconds(model, device);
      if (!model.warm[Index(device.device.host)]) load_s += reading_s[Index(device.device.host)];
      cost += 0.02 + load_s / (static_cast<double>(job.ttft) * 1e-9) * 0.25;
    }
    double backlog_s = 0;
    for (const Replica* other : device.replicas) {
      const int64_t backlog = other->backlog - (view == View::kAll ? 0 : other->beyond_backlog);
      if (backlog > 0) backlog_s += PrefillSeconds(*other->model, device, backlog);
    }
    const double own_s = PrefillSeconds(model, device, job.prompt);
    const double first_s = (backlog_s + own_s) / std::clamp(1 - before, 0.25, 1.0) + load_s;
    cost += std::max(0.0, first_s / (static_cast<double>(job.ttft) * 1e-9) - 0.25);
    if (best.device == nullptr || cost < best.cost) {
      best = {.device = &device, .cost = cost};
    }
  }
  return best;
}

double TidepoolScheduler::ExpectedOutput(const Job& job) const {
  constexpr double kUnknown = 256;
  return std::min<double>(job.job.max_output_tokens,
                          job.model->mean_output > 0 ? job.model->mean_output : kUnknown);
}

// Until the host has read what its devices want and it does not hold.
double TidepoolScheduler::ReadingSeconds(const Host& host) const {
  double bytes = 0;
  for (const Device* device : host.devices) {
    for (const Replica* replica : device->replicas) {
      if (replica->jobs() == 0 || replica->resident()) continue;
      const Model& model = *replica->model;
      if (model.warm[Index(device->device.host)]) continue;
      bytes += static_cast<double>(model.weight_bytes - model.prefix_bytes[Index(replica->landed)]);
    }
  }
  return bytes / std::max(host.host.load_bytes_per_s, 1.0);
}

// Processor demand (Baruah, Rosier and Howell, Real-Time Systems 1990): tokens that are due within a time
// must be computed, and weights that they need be copied, within that time. The largest ratio of the two over
// times up to eight TTFTs, with `job` on the device: 1 is all that can be promised. A model's jobs take steps
// together, so one more of a model that is at work costs little, the first of another one much; what is ahead
// of its pace is a buffer, and what is late counts more.
double TidepoolScheduler::DemandWith(const Device& device, const Job& job, View view, const Account* below,
                                     Nanoseconds now) const {
  constexpr size_t kTimes = 6;
  std::array<double, kTimes> time_s{}, compute_s{}, copy_s{};
  for (size_t i = 0; i < kTimes; ++i)
    time_s[i] = std::ldexp(static_cast<double>(job.ttft) * 1e-9, static_cast<int>(i) - 2);
  uint64_t wanted = device.kv_bytes;
  // What is read from the store shares the host's rate with all that is read there.
  double read_s = ReadingSeconds(*hosts_[Index(device.device.host)]), read_from_s = kNever;
  double queue_s = 0;
  const auto add = [&](const Model& model, const Replica* replica, bool with_job) {
    std::array<double, kTimes> steps{}, prefill{};
    double first_due_s = kNever;
    // Answers end by chance, whatever they have produced: the last of n is expected after 1 + 1/2 + ... + 1/n
    // times as long as one.
    double left = 0;
    int32_t going_on = 0;
    double context = 0;
    const auto count = [&](const Job& other) {
      if (other.paused) return;
      // Batch work is in nobody's way.
      if (other.job.job_class == JobClass::kBatch && job.job.job_class != JobClass::kBatch) return;
      context += other.prompt + ExpectedOutput(other) / 2;
      const double due_s = Slack(other, now);
      first_due_s = std::min(first_due_s, due_s);
      const double tpot_s = static_cast<double>(other.tpot) * 1e-9;
      left += ExpectedOutput(other) / ++going_on;
      const int32_t to_prefill = other.place == Place::kActive || other.place == Place::kWaiting || with_job
                                     ? other.prompt - other.computed
                                     : 0;
      for (size_t i = 0; i < kTimes; ++i) {
        if (time_s[i] < due_s) continue;
        steps[i] = std::max(steps[i], (time_s[i] - due_s) / tpot_s + 1);
        prefill[i] += std::max(to_prefill, 0);
      }
    };
    if (replica != nullptr) {
      for (const auto* list : {&replica->waiting, &replica->active, &replica->spilled}) {
        for (const Job* other : *list) {
          if (other->beyond && view != View::kAll) continue;
          if (below == nullptr || AccountTree::IsBelow(*other->account, *below)) count(*other);
        }
      }
    }
    if (with_job) count(job);
    if (going_on == 0) return;
    const double step_s = BatchSeconds(model, device, going_on, context);
    const bool missing = model.needs_weights() && (replica == nullptr || !replica->resident());
    const bool warm = model.warm[Index(device.device.host)];
    const double load_s = !missing ? 0 : LoadSeconds(model, device);
    if (missing && !warm) {
      read_from_s = std::min(read_from_s, first_due_s);
      if (replica == nullptr || replica->jobs() == 0) read_s += load_s;
    }
    wanted += model.weight_bytes;
    if (with_job) {
      // Those beyond a batch wait until others have ended.
      const int32_t most = model.model.max_sequences;
      const int32_t beyond = going_on - most;
      const double each_s = ExpectedOutput(job) * step_s / most + PrefillSeconds(model, device, job.prompt);
      if (beyond > 0) queue_s = beyond * each_s;
    }
    for (size_t i = 0; i < kTimes; ++i) {
      if (time_s[i] < first_due_s) continue;
      compute_s[i] +=
          std::min(steps[i], left) * step_s + PrefillSeconds(model, device, static_cast<int64_t>(prefill[i]));
      if (warm) copy_s[i] += load_s;
    }
  };
  const Replica* own = FindReplica(*job.model, device);
  add(*job.model, own, true);
  for (const Replica* replica : device.replicas) {
    if (replica != own && replica->jobs(view) > 0) add(*replica->model, replica, false);
  }
  // What does not fit comes again in every round.
  const double ttft_s = static_cast<double>(job.ttft) * 1e-9;
  const double round_s =
      wanted > device.arena ? static_cast<double>(wanted - device.arena) / device.copy_rate : 0;
  double worst = kJoins * queue_s / ttft_s;  // that a model is at work does not help here
  for (size_t i = 0; i < kTimes; ++i) {
    const double copies_s = std::max(copy_s[i], round_s * time_s[i] / (kRoundOfTtft * ttft_s)) +
                            (time_s[i] < read_from_s ? 0 : read_s);
    worst = std::max(worst, std::max(compute_s[i], copies_s) / time_s[i]);
  }
  return worst;
}

// How far beyond what can be promised the best device would be; at most 0: it is not.
double TidepoolScheduler::Overload(const Job& job, const Device& device, Nanoseconds now) const {
  if (options_.admission_load <= 0) return 0;
  double limit = kPromise * options_.admission_load;
  if (job.job.job_class == JobClass::kBatch) limit *= kBatchShare;
  const bool beyond = accounts_.shared() && Beyond(job, now);
  // What came beyond a share counts for those within theirs only while somebody else is there to have it.
  const View view = accounts_.shared() && !beyond ? View::kWithinShare : View::kAll;
  const Replica* there = FindReplica(*job.model, device);
  if (beyond) {
    limit *= kBeyondShare;
  } else if (job.job.job_class != JobClass::kBatch && there != nullptr && there->jobs(view) > 0) {
    limit *= kJoins;
  }
  const double over = DemandWith(device, job, view, nullptr, now) - limit;
  if (over <= 0 || !accounts_.shared()) return over;
  // What an account, or what it is part of, needs within its share is not refused for what others sent.
  for (const Account* node = job.account; node->parent != nullptr; node = node->parent) {
    const double share = AccountTree::ShareOf(*node);
    // Requests do not come evenly.
    const double part = beyond ? share / kBeyondShare : share + kOwnBurst * (1 - share);
    if (share < 1 && DemandWith(device, job, View::kAll, node, now) <= part * limit) return 0;
  }
  return over;
}

// A promise that the fastest device could not keep for this job alone is widened to what it could keep for
// two: otherwise a slow machine would refuse everything, and every token would be late from the start.
void TidepoolScheduler::Relax(Job& job) const {
  if (job.relaxed) return;
  job.relaxed = true;
  double pace_s = kNever, first_s = kNever;
  for (const auto& device : devices_) {
    if (!MayUse(*job.model, *device)) continue;
    pace_s = std::min(pace_s, SlowestPace(*job.model, *device));
    first_s = std::min(
        first_s, 2 * (PrefillSeconds(*job.model, *device, job.prompt) + LoadSeconds(*job.model, *device)));
  }
  if (pace_s == kNever) return;
  job.tpot = std::max(job.tpot, static_cast<Nanoseconds>(pace_s * 1e9));
  job.ttft = std::max(job.ttft, static_cast<Nanoseconds>(first_s * 1e9));
}

void TidepoolScheduler::PlaceAll(Nanoseconds now, std::vector<Effect>& effects) {
  if (unplaced_.empty()) return;
  std::vector<Job*> waiting;
  waiting.swap(unplaced_);
  for (Job* job : waiting) {
    if (job->place_at > now) {
      unplaced_.push_back(job);
      wake_at_ = std::min(wake_at_, job->place_at);
      continue;
    }
    if (job->model->quarantined_until > now && job->model->load_failures > 0) {
      unplaced_.push_back(job);
      EmitReject(*job, Reason::kQuarantined, static_cast<double>(job->model->quarantined_until - now) * 1e-9,
                 0, now, effects);
      continue;
    }
    Relax(*job);
    const Fit fit = BestFit(*job, now);
    if (fit.device == nullptr) {
      bool any = false, fits = false;
      for (const auto& device : devices_) {
        any |= MayUse(*job->model, *device);
        fits |= job->model->weight_bytes + KvBytes(*job->model, job->job.prompt_tokens + 1) <= device->arena;
      }
      unplaced_.push_back(job);
      EmitReject(*job, any && !fits ? Reason::kTooLarge : Reason::kNoDevice, 0, 0, now, effects);
      continue;
    }
    if (const double over = Overload(*job, *fit.device, now); over > 0) {
      unplaced_.push_back(job);
      if (job->job.job_class == JobClass::kBatch) {
        job->place_at = now + kSecond;
        wake_at_ = std::min(wake_at_, job->place_at);
        continue;
      }
      const double retry = std::clamp(10 * over, 1.0, 60.0);
      EmitReject(*job, Reason::kOverloaded, retry, job->model->waiting, now, effects);
      continue;
    }
    Assign(*job, *fit.device, now);
  }
}

bool TidepoolScheduler::Beyond(const Job& job, Nanoseconds now) {
  return AccountTree::ClockAhead(*job.account, now) >= BurstSeconds(job);
}

// Its account is charged what it costs where it costs least: as one of a full batch. By this measure a device
// has time for all that it can ever serve; measured time would count an idle device's small batches as if it
// were full.
void TidepoolScheduler::OnAssigned(Job& job, Nanoseconds now) {
  Device& device = *job.replica->device;
  accounts_.Settle(*job.account, job.pledge, job.served_s);  // on a device it was moved from
  job.served_s = 0;
  const StepProfile& profile = ProfileOf(*job.model, device);
  const double full = std::min(job.model->model.max_sequences, kFullBatch);
  const double output = ExpectedOutput(job);
  job.prefill_token_s = PrefillSeconds(*job.model, device, job.prompt) / job.prompt;
  job.decode_token_s =
      job.model->decode_ratio * profile.StepSeconds(0, 0, full * (job.prompt + output / 2), full) / full;
  Count(job, -1);
  job.beyond = Beyond(job, now);
  Count(job, +1);
  job.ahead_s = AccountTree::ClockAhead(*job.account, now);
  job.pledge =
      accounts_.Pledge(*job.account, job.prompt * job.prefill_token_s + output * job.decode_token_s, now);
  if (job.replica->resident()) device.turn.broken = true;
}

// ---- a device ------------------------------------------------------------------------------------------

void TidepoolScheduler::Decide(Nanoseconds now, std::vector<Effect>& effects) {
  ++counters_.decisions;
  wake_at_ = INT64_MAX;
  accounts_.Expire(now);
  PlaceAll(now, effects);
  if (devices_.size() > 1 && !jobs_.empty()) {
    if (now - balanced_at_ >= kBalanceInterval) {
      balanced_at_ = now;
      Rebalance(now, effects);
    }
    wake_at_ = std::min(wake_at_, balanced_at_ + kBalanceInterval);
  }
  for (const auto& device : devices_) {
    if (device->retry_at <= now) {
      device->retry_at = INT64_MAX;
      device->stuck = !device->busy && device->loading == nullptr && device->asked == 0 &&
                      device->spilling + device->restoring == 0;
      ++device->room_epoch;
      Break(*device);
    }
    if (device->dirty || device->step_ended || std::min(device->wake_at, device->land_at) <= now) {
      DecideDevice(*device, now, effects);
    }
    wake_at_ = std::min({wake_at_, device->wake_at, device->land_at, device->retry_at});
  }
}

void TidepoolScheduler::DecideDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  if (device.asked > 0) return;  // answers come first
  ManageDevice(device, now, effects);
  PlanLanding(device, now);
  if (device.busy) {
    if (device.turn.broken) EmitYield(device, effects);
    return;
  }
  device.step_ended = false;
  ChooseTurn(device, now, effects);
  // A new turn frees the last one's model for eviction.
  ManageDevice(device, now, effects);
  PlanLanding(device, now);
}

// Not after every step, only when something changed: decisions about weights are then the same whether a
// turn's steps are reported one by one or all at once.
void TidepoolScheduler::ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  if (!device.dirty && device.wake_at > now) return;
  device.dirty = false;
  device.wake_at = INT64_MAX;
  Shrink(device, now, effects);
  ExpireIdle(device, now, effects);
  ManageWeights(device, now, effects);
  RestoreJobs(device, now, effects);
}

bool TidepoolScheduler::Admissible(const Replica& replica) const {
  if (replica.waiting.empty() || replica.runnable >= replica.model->model.max_sequences) return false;
  const uint64_t epoch = replica.device->room_epoch;
  return std::any_of(replica.waiting.begin(), replica.waiting.end(),
                     [&](const Job* job) { return !job->paused && job->refused_epoch != epoch; });
}

// Seconds until the load ends, as it began; negative: it is overdue.
double TidepoolScheduler::LoadLeft(const Replica& replica, Nanoseconds now) const {
  return LoadSeconds(replica) - static_cast<double>(now - replica.load_began) * 1e-9;
}

// A step may begin before its weights are all there when the last of them will have come before it needs
// them: with `layers` that come and are computed at even rates, when what is left to come takes no longer
// than what is computed before the last. It then never waits, and the first token comes one layer after the
// last copy. Only for loads whose time is known: from host memory, at a measured rate.
void TidepoolScheduler::PlanLanding(Device& device, Nanoseconds now) {
  const Replica* replica = device.loading;
  if (replica == nullptr || device.lands) return;
  device.land_at = INT64_MAX;
  const Model& model = *replica->model;
  if (replica->stopping || replica->jobs() == 0 || replica->loading_to != model.segments() ||
      model.segments() < 2 || !model.warm[Index(device.device.host)]) {
    return;
  }
  const int64_t prefill = std::min<int64_t>(replica->backlog, model.model.batch_tokens);
  const double step_s = PrefillSeconds(model, device, prefill) +
                        (replica->runnable > replica->prefilling ? DecodeSeconds(*replica, 0, 0) : 0);
  const double left_s = LoadLeft(*replica, now);
  if (left_s < -kOverdue * LoadSeconds(*replica)) return;  // nobody knows when it will end
  const double early_s = step_s * (1 - 1.0 / model.segments());
  if (left_s > early_s) {
    device.land_at = now + static_cast<Nanoseconds>((left_s - early_s) * 1e9) + 1;
    return;
  }
  device.lands = true;
  device.turn.broken = true;
}

bool TidepoolScheduler::Lands(const Replica& replica) {
  return replica.device->loading == &replica && replica.device->lands && !replica.stopping;
}

bool TidepoolScheduler::Ready(const Replica& replica) const {
  if (!replica.resident() && !Lands(replica)) return false;
  if (Admissible(replica)) return true;
  return std::any_of(replica.active.begin(), replica.active.end(), [&](const Job* job) {
    return !job->paused &&
           (job->computed < job->reserved || job->refused_epoch != replica.device->room_epoch);
  });
}

void TidepoolScheduler::ChooseTurn(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  Turn& turn = device.turn;
  Reason reason = Reason::kContinue;
  ++attempts_;
  for (;;) {
    if (turn.replica == nullptr || turn.broken || turn.steps_left <= 0 || !Ready(*turn.replica)) {
      if (!BeginTurn(device, now)) return;
      reason = Reason::kTurn;
    }
    Replica& replica = *turn.replica;
    if (AdmitJobs(replica, now, effects)) return;
    if (GrowJobs(replica, now, effects)) return;
    // Between accounts what each has had so far counts at every step.
    const int32_t most_steps = accounts_.shared() ? 1 : options_.max_turn_steps;
    const ComposeRule rule{.most_steps = replica.resident() ? std::min(turn.steps_left, most_steps) : 1,
                           .most_beyond = !accounts_.shared() ? INT32_MAX
                                          : device.late       ? 2 * kBeyondTokens
                                                              : kBeyondTokens};
    if (ComposeStep(replica, rule, now, device.plan)) {
      device.stuck = false;
      EmitRun(device, replica, reason, now, effects);
      return;
    }
    // Nothing of it could run (no room): the others try, each once.
    for (Job* job : replica.active) {
      if (job->computed >= job->reserved) job->refused_epoch = device.room_epoch;
    }
    replica.attempt = attempts_;
    turn = {};
  }
}

bool TidepoolScheduler::AnyLate(const Device& device, Nanoseconds now) {
  for (const Replica* replica : device.replicas) {
    for (const auto* list : {&replica->active, &replica->waiting, &replica->spilled}) {
      for (const Job* job : *list) {
        if (!job->paused && job->due() < now) return true;
      }
    }
  }
  return false;
}

bool TidepoolScheduler::BeginTurn(Device& device, Nanoseconds now) {
  Turn& turn = device.turn;
  Replica* best = nullptr;
  double first = kNever, second = kNever;
  bool blocked = false;
  if (accounts_.shared()) device.late = AnyLate(device, now);
  for (Replica* replica : device.replicas) {
    if (replica->jobs() == 0 || replica->attempt == attempts_) continue;
    if (!Ready(*replica)) {
      blocked |= !replica->resident();
      continue;
    }
    const double urgency = ReplicaUrgency(*replica, now);
    if (best == nullptr || urgency < first) {
      second = first;
      first = urgency;
      best = replica;
    } else {
      second = std::min(second, urgency);
    }
  }
  if (best == nullptr) {
    // The last turn's model may go now: a pool that was made smaller has waited for that.
    if (turn.replica != nullptr && device.used() > device.arena) device.dirty = true;
    turn = {};
    CheckRates(device, now, blocked, false);
    return false;
  }
  if (device.blocked_since >= 0) CheckRates(device, now, false, false);
  const double tpot = static_cast<double>(best->model->model.tpot) * 1e-9;
  const double steps = second == kNever ? 1e9 : std::ceil(kTurnTokens + (second - first) / tpot);
  turn = {.replica = best, .steps_left = static_cast<int32_t>(std::clamp(steps, 1.0, 1e9)), .broken = false};
  // Not its turns of before it was idle or away.
  if (std::exchange(device.turns_of, best->model->model.model) != best->model->model.model ||
      best->landed_at > device.turns_since || now - best->last_used > kTurnPause) {
    device.turns_since = now;
  }
  ++best->served;
  ++counters_.turns;
  device.dirty = true;
  return true;
}

// ---- KV ------------------------------------------------------------------------------------------------

int32_t TidepoolScheduler::FirstReservation(const Job& job) const {
  const int32_t all = std::max(job.reserve_limit(), job.prompt);
  const Host& host = *hosts_[Index(job.replica->device->device.host)];
  if (host.host.kv_bytes == 0 && options_.overcommit <= 1) return all;
  return std::min(all, job.prompt + kGrowTokens);
}

void TidepoolScheduler::Refuse(Job& job, Device& device, Nanoseconds now) {
  job.refused_epoch = device.room_epoch;
  device.retry_at = std::min(device.retry_at, now + kRetry);
}

// Device and host together can hold what all admitted jobs may come to need: each device keeps room for the
// weights of the largest model, without which nothing runs.
double TidepoolScheduler::CommitLimit(const Host& host) const {
  uint64_t largest = 0;
  for (const auto& [id, model] : models_) largest = std::max(largest, model->weight_bytes);
  uint64_t capacity = host.host.kv_bytes;
  for (const Device* device : host.devices) capacity += device->arena > largest ? device->arena - largest : 0;
  return static_cast<double>(capacity) * std::max(options_.overcommit, 1.0);
}

bool TidepoolScheduler::Committable(const Job& job) const {
  if (job.committed > 0) return true;
  Host& host = *hosts_[Index(job.replica->device->device.host)];
  if (host.host.kv_bytes == 0 && options_.overcommit <= 1 && !job.open_ended())
    return true;  // reserved whole on the device
  const uint64_t more = KvBytes(*job.model, job.first_promise());
  const bool fits = static_cast<double>(host.committed + more) <= CommitLimit(host) || host.committed == 0;
  if (!fits) host.full = true;
  return fits;
}

// An open-ended job has used what was promised to it. The oldest always gets more: younger ones make way, one
// after the other, and alone it has all there is. So of those that wait for each other none waits for ever.
bool TidepoolScheduler::PromiseMore(Job& job, int32_t tokens, std::vector<Effect>& effects) {
  Host& host = *job.committed_to;
  const int32_t promise = std::min(job.most_tokens(), tokens + job.job.open_output_tokens);
  const uint64_t more = KvBytes(*job.model, promise) - job.committed;
  const auto may_go = [&](const Job& other) {
    return other.open_ended() && other.committed_to == &host && other.committed > 0 && !other.asked &&
           !other.gone && other.arrival_order > job.arrival_order &&
           (other.place == Place::kActive || other.place == Place::kSpilled) &&
           !(other.replica->device->busy && other.replica->device->running == other.replica);
  };
  while (static_cast<double>(host.committed + more) > CommitLimit(host) && host.committed != job.committed) {
    Job* youngest = nullptr;
    for (const auto& [id, other] : jobs_) {
      if (may_go(*other) && (youngest == nullptr || other->arrival_order > youngest->arrival_order))
        youngest = other.get();
    }
    if (youngest == nullptr) {
      host.full = true;
      return false;
    }
    EmitDrop(*youngest, Reason::kRoom, effects);
  }
  host.committed += more;
  job.committed += more;
  job.promised = promise;
  return true;
}

bool TidepoolScheduler::AdmitJobs(Replica& replica, Nanoseconds now, std::vector<Effect>& effects) {
  Device& device = *replica.device;
  bool asked = false;
  int32_t slots = replica.model->model.max_sequences - replica.runnable;
  while (slots > 0 && !replica.waiting.empty()) {
    Job* next = nullptr;
    double least = kNever;
    bool barrier = false;
    for (Job* job : replica.waiting) {
      if (job->paused || job->asked) continue;
      const bool refused = job->refused_epoch == device.room_epoch;
      if (job->passed >= kMaxPassed && refused) barrier = true;  // nobody passes it any more
      if (refused) continue;
      const double urgency = Urgency(*job, now) - (job->passed >= kMaxPassed ? 1e6 : 0);
      if (next == nullptr || urgency < least) {
        least = urgency;
        next = job;
      }
    }
    if (next == nullptr || barrier) break;
    if (AheadSeconds(*next, device) > kBeyond_s && slots <= replica.model->model.max_sequences / 4) break;
    const int32_t tokens = FirstReservation(*next);
    const uint64_t bytes = KvBytes(*next->model, tokens);
    if (!Committable(*next) || (bytes > device.free() &&
                                !MakeRoom(device, bytes - device.free(), least, 0, &replica, now, effects))) {
      Refuse(*next, device, now);
      continue;
    }
    EmitAdmit(*next, tokens, effects);
    asked = true;
    --slots;
  }
  return asked;
}

bool TidepoolScheduler::GrowJob(Job& job, Device& device, bool first, Nanoseconds now,
                                std::vector<Effect>& effects) {
  if (job.paused || job.computed < job.reserved || job.refused_epoch == device.room_epoch) return false;
  if (job.open_ended() && job.computed >= job.promised && job.promised < job.most_tokens() &&
      !PromiseMore(job, job.computed + 1, effects)) {
    Refuse(job, device, now);
    return false;
  }
  const int32_t tokens = std::min(job.reserve_limit(), job.computed + kGrowTokens);
  const uint64_t bytes = KvBytes(*job.model, tokens) - job.device_bytes;
  if (bytes > device.free()) {
    // When one has grown the device does not stand still any more.
    const Job* const grower = device.stuck && first ? &job : nullptr;
    const bool made = MakeRoom(device, bytes - device.free(), Urgency(job, now), 0, job.replica, now, effects, grower);
    if (job.place != Place::kActive) return false;  // it was the youngest itself
    if (!made && bytes > device.free()) {  // room of a job that was dropped is there at once
      Refuse(job, device, now);
      return false;
    }
  }
  EmitGrow(job, tokens, effects);
  return true;
}

bool TidepoolScheduler::GrowJobs(Replica& replica, Nanoseconds now, std::vector<Effect>& effects) {
  Device& device = *replica.device;
  bool asked = false;
  for (size_t i = 0; i < replica.active.size();) {
    const size_t active = replica.active.size();
    asked |= GrowJob(*replica.active[i], device, !asked, now, effects);
    i = replica.active.size() == active ? i + 1 : 0;  // some made way: the list is another
  }
  return asked;
}

void TidepoolScheduler::RestoreJobs(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  if (device.cordoned || device.spilling > 0) return;
  for (Replica* replica : device.replicas) {
    if (replica->spilled.empty() || !(replica->resident() || replica->loading)) continue;
    for (size_t i = 0; i < replica->spilled.size();) {
      Job& job = *replica->spilled[i];
      ++i;
      if (job.place != Place::kSpilled || job.paused || job.refused_epoch == device.room_epoch) continue;
      const int32_t tokens = std::min(job.reserve_limit(), job.computed + kGrowTokens);
      const uint64_t bytes = KvBytes(*job.model, tokens);
      if (bytes > device.free() &&
          !MakeRoom(device, bytes - device.free(), Urgency(job, now), 0, replica, now, effects)) {
        Refuse(job, device, now);
        continue;
      }
      EmitRestore(job, tokens, effects);
      i = 0;  // the list has changed
    }
  }
}

// ---- weights -------------------------------------------------------------------------------------------

void TidepoolScheduler::ManageWeights(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  Replica* wanted = nullptr;
  double least = kNever;
  for (Replica* replica : device.replicas) {
    if (replica->loading || replica->landed == replica->model->segments() || replica->jobs() == 0) continue;
    if (replica->model->quarantined_until > now) {
      device.wake_at = std::min(device.wake_at, replica->model->quarantined_until);
      continue;
    }
    const double urgency = ReplicaUrgency(*replica, now) - LoadSeconds(*replica);
    if (wanted == nullptr || urgency < least) {
      least = urgency;
      wanted = replica;
    }
  }
  if (device.loading != nullptr) {
    // What is loaded for jobs that are gone, or came beyond their account's share, makes way.
    const bool for_none =
        device.loading->jobs() == 0 ||
        (device.loading->jobs(View::kWithinShare) <= 0 && wanted != nullptr &&
         wanted->jobs(View::kWithinShare) > 0 && LoadLeft(*device.loading, now) > kStopLeft_s &&
         ReplicaUrgency(*device.loading, now) - LoadSeconds(*device.loading) > least + 1);
    if (wanted != nullptr && for_none && !device.loading->stopping && device.running != device.loading &&
        !device.loading->model->model.pinned) {
      EmitStopLoad(device, effects);
    }
    return;
  }
  if (wanted != nullptr) {
    StartLoad(device, *wanted, least, Reason::kUrgent, now, effects);
    return;
  }
  if (device.cordoned) return;
  // Nothing waits: bring what will be wanted, as far as there is room that nobody uses.
  Replica* expected = nullptr;
  double soonest = kNever;
  for (Replica* replica : device.replicas) {
    const Model& model = *replica->model;
    if (replica->landed == model.segments() || model.quarantined_until > now) continue;
    if (model.model.pinned) {
      StartLoad(device, *replica, kPinnedUrgency, Reason::kPinned, now, effects);
      return;
    }
    if (model.prefetch) {
      // Idle models may make way, models with work not.
      if (StartLoad(device, *replica, kNever, Reason::kPrewarm, now, effects)) return;
      continue;
    }
    if (model.arrival_gap_s <= 0) continue;
    const double idle_s = static_cast<double>(now - model.last_arrival) * 1e-9;
    if (idle_s > 8 * model.arrival_gap_s) continue;  // its users went away
    const uint64_t missing = model.weight_bytes - replica->bytes;
    const auto spare = static_cast<uint64_t>(static_cast<double>(device.arena) * kKvShare * 2);
    if (device.free() < missing + spare) continue;
    if (model.arrival_gap_s < soonest) {
      soonest = model.arrival_gap_s;
      expected = replica;
    }
  }
  if (expected != nullptr) StartLoad(device, *expected, kNever, Reason::kPrewarm, now, effects);
}

bool TidepoolScheduler::StartLoad(Device& device, Replica& replica, double urgency, Reason reason,
                                  Nanoseconds now, std::vector<Effect>& effects) {
  const Model& model = *replica.model;
  uint64_t wanted = model.weight_bytes - replica.bytes;
  for (const Job* job : replica.waiting) {
    wanted += KvBytes(model, job->prompt + kGrowTokens);
    if (wanted > device.arena / 2 + model.weight_bytes) break;
  }
  wanted += static_cast<uint64_t>(static_cast<double>(device.arena) * kKvShare);
  wanted = std::min(wanted, std::max(device.arena - std::min(device.arena, replica.bytes),
                                     model.weight_bytes - replica.bytes));
  if (wanted > device.free() &&
      !MakeRoom(device, wanted - device.free(), urgency, LoadSeconds(replica), &replica, now, effects)) {
    // Without the room for growth it may still go in.
    const uint64_t least = model.weight_bytes - replica.bytes;
    if (least > device.free() &&
        !MakeRoom(device, least - device.free(), urgency, LoadSeconds(replica), &replica, now, effects)) {
      const bool soon = replica.jobs(View::kWithinShare) > 0 && device.running != nullptr &&
                        device.running->beyond > 0 && device.running->jobs(View::kWithinShare) <= 0;
      if (soon) device.turn.broken = true;
      device.wake_at = std::min(device.wake_at, now + (soon ? kSecond / 50 : kSecond / 4));
      return false;
    }
  }
  EmitLoad(replica, model.segments(), reason, now, effects);
  return true;
}

// Is another model of the device resident and at work? Then turns go round without switches.
bool TidepoolScheduler::OthersCanRun(const Replica& replica) const {
  const auto& all = replica.device->replicas;
  return std::any_of(all.begin(), all.end(), [&](const Replica* other) {
    return other != &replica && other->resident() && other->runnable > 0;
  });
}

bool TidepoolScheduler::MakeRoom(Device& device, uint64_t bytes, double urgency, double load_s,
                                 const Replica* keep, Nanoseconds now, std::vector<Effect>& effects,
                                 const Job* grower) {
  struct Victim {
    Replica* replica;
    double rank;  // the larger goes first
    uint64_t spare;
  };
  std::vector<Victim> victims;
  uint64_t possible = 0;  // could be freed now
  uint64_t later = 0;     // could be freed when slacks have moved on
  bool in_the_way = false;
  for (Replica* replica : device.replicas) {
    if (replica == keep || replica->loading || replica->landed == 0) continue;
    const Model& model = *replica->model;
    const bool drain = urgency == -kNever;
    if (model.pinned_here() && !drain) continue;
    later += replica->bytes;
    // The model whose turn it is makes way when no other is there that its turn could end for, and at once
    // when all its jobs came beyond their share and it is in the way of some that did not.
    const bool gives_way = keep != nullptr && keep->jobs(View::kWithinShare) > 0 && replica->beyond > 0 &&
                           replica->jobs(View::kWithinShare) <= 0;
    const bool has_turn = device.running == replica || device.turn.replica == replica;
    if (has_turn && !gives_way && (replica->jobs() == 0 || drain || load_s == 0 || OthersCanRun(*replica)))
      continue;
    if (now - replica->landed_at < model.model.min_resident && !drain) continue;
    double rank = 0;
    if (replica->jobs() == 0) {
      // Idle: the one expected last goes first.
      const double idle_s =
          static_cast<double>(now - std::max(replica->last_used, replica->landed_at)) * 1e-9;
      const double gap_s = model.arrival_gap_s > 0 ? std::max(model.arrival_gap_s, idle_s) : idle_s + 1e3;
      rank = 1e9 + gap_s;
    } else {
      const bool any_price = drain || device.stuck;
      const double theirs = ReplicaUrgency(*replica, now);
      const double back_s = static_cast<double>(std::min(bytes, replica->bytes)) / device.copy_rate;
      // What has not been served since it came, came for a reason.
      const double hysteresis = replica->served == 0 && replica->resident() ? kUnserved : kSwitchHysteresis;
      if (!any_price && theirs - urgency < hysteresis * (load_s + back_s)) continue;
      rank = theirs == kNever ? 1e8 : theirs;
      if (has_turn) {
        // Only for what would be late: a turn is worth more than a little less slack.
        const double run_s = static_cast<double>(now - device.turns_since) * 1e-9;
        if (!gives_way && (urgency > kTurnAlarm_s || theirs - urgency < kTurnAlarm_s ||
                           run_s < std::max(kTurnRun_s, kTurnRunLoads * (load_s + back_s)))) {
          continue;
        }
        if (device.running == replica) {  // when its step has ended, if nobody else can give
          in_the_way |= load_s > 0;
          continue;
        }
        if (!gives_way) rank = std::min(rank, -1e8);
      }
    }
    victims.push_back({replica, rank, replica->bytes});
    possible += replica->bytes;
  }
  if (possible < bytes) {
    // KV moves only when weights cannot make the room: for weights that have to wait, it is not in the way.
    const uint64_t weights = load_s > 0 ? later : possible;
    if (weights < bytes) SpillFor(device, bytes - weights, urgency, grower, now, effects);
    if (in_the_way) Break(device);
    return false;
  }
  std::sort(victims.begin(), victims.end(), [](const Victim& a, const Victim& b) {
    const bool a_pinned = a.replica->model->pinned_here(), b_pinned = b.replica->model->pinned_here();
    if (a_pinned != b_pinned) return b_pinned;  // only when draining: last
    return a.rank != b.rank ? a.rank > b.rank : a.replica->model->model.model < b.replica->model->model.model;
  });
  uint64_t freed = 0;
  for (const Victim& victim : victims) {
    if (freed >= bytes) break;
    Replica& replica = *victim.replica;
    const auto& prefix = replica.model->prefix_bytes;
    int32_t to = replica.landed;
    while (to > 0 && prefix[Index(replica.landed)] - prefix[Index(to)] < bytes - freed) --to;
    freed += prefix[Index(replica.landed)] - prefix[Index(to)];
    const Reason reason = replica.jobs() == 0 ? Reason::kIdle : Reason::kMoreSlack;
    EmitEvict(replica, to, urgency == -kNever ? Reason::kDrain : reason, effects);
  }
  device.stuck = false;  // once: what comes now is to be served before it may be pushed out again
  return true;
}

// Weights are not enough: KV of the jobs that can wait longest goes to the host. Comes true later.
bool TidepoolScheduler::SpillFor(Device& device, uint64_t bytes, double urgency, const Job* grower,
                                 Nanoseconds now, std::vector<Effect>& effects) {
  Host& host = *hosts_[Index(device.device.host)];
  uint64_t coming = device.spilling_bytes;
  // Nothing goes on, and sequences move whole: room in pieces may be too small for each of them although
  // there is enough in all. Then the youngest is computed again, an open-ended one first.
  const bool stands_still = device.stuck && grower != nullptr && coming == 0;
  while (coming < bytes) {
    Job* victim = nullptr;
    double most = urgency;
    for (Replica* replica : device.replicas) {
      if (replica == device.running) continue;
      if (replica == device.turn.replica && (grower == nullptr || grower->replica != replica)) continue;
      for (Job* job : replica->active) {
        if (job->asked || job->device_bytes == 0) continue;
        if (job->spill_refused_epoch == device.room_epoch && !stands_still) {  // not again and again at once
          device.retry_at = std::min(device.retry_at, now + kRetry);
          continue;
        }
        if (stands_still) {
          if (victim == nullptr || std::pair(job->open_ended(), job->arrival_order) >
                                       std::pair(victim->open_ended(), victim->arrival_order))
            victim = job;
          continue;
        }
        const double theirs = job->paused ? kNever : Urgency(*job, now) - 1e-3;
        if (job != grower && theirs > most) {
          most = theirs;
          victim = job;
        }
      }
    }
    if (victim == nullptr) return false;
    const uint64_t gives = victim->device_bytes;
    if (victim->computed == 0) {  // nothing to keep: it waits again
      EmitDrop(*victim, Reason::kRoom, effects);
      bytes -= std::min(bytes, gives);
      continue;
    }
    if (KvBytes(*victim->model, victim->computed) > host.free()) {
      if (options_.overcommit <= 1 && !stands_still) return false;
      EmitDrop(*victim, Reason::kRoom, effects);
      if (stands_still) {
        device.stuck = false;
        return true;
      }
      bytes -= std::min(bytes, gives);
      continue;
    }
    coming += gives;
    EmitSpill(*victim, Reason::kRoom, effects);
  }
  return true;
}

void TidepoolScheduler::Shrink(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  if (device.used() <= device.arena && !device.cordoned) return;
  if (device.cordoned) {
    // Jobs that have not begun go elsewhere; those that run end here unless their KV can move.
    for (Replica* replica : device.replicas) {
      while (!replica->waiting.empty() && !replica->waiting.back()->asked) {
        Job* job = replica->waiting.back();
        Detach(*job);
        unplaced_.push_back(job);
        wake_at_ = std::min(wake_at_, now);
      }
    }
  }
  if (device.used() > device.arena) {
    MakeRoom(device, device.used() - device.arena, -kNever, 0, nullptr, now, effects);
  }
}

void TidepoolScheduler::ExpireIdle(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  for (Replica* replica : device.replicas) {
    const Model& model = *replica->model;
    if (model.model.idle_ttl < 0 || replica->jobs() > 0 || replica->landed == 0 || replica->loading) continue;
    if (device.running == replica || model.pinned_here()) continue;
    const Nanoseconds until = std::max(replica->last_used, replica->landed_at) +
                              std::max(model.model.idle_ttl, model.model.min_resident);
    if (until <= now) {
      EmitEvict(*replica, 0, Reason::kExpired, effects);
    } else {
      device.wake_at = std::min(device.wake_at, until);
    }
  }
}

// ---- balance -------------------------------------------------------------------------------------------

void TidepoolScheduler::Rebalance(Nanoseconds now, std::vector<Effect>& effects) {
  Device *fullest = nullptr, *emptiest = nullptr;
  double most = 0, least = kNever;
  const auto pressure = [&](Device& device) { return std::max(LoadOf(device), WeightPressure(device, 0)); };
  for (const auto& device : devices_) {
    const double p = device->cordoned ? (device->kv_bytes > 0 ? 10 : 0) : pressure(*device);
    if (fullest == nullptr || p > most) {
      most = p;
      fullest = device.get();
    }
    if (!device->cordoned && p < least) {
      least = p;
      emptiest = device.get();
    }
  }
  if (fullest == nullptr || emptiest == nullptr || most < kComfort || most - least < kMoveGap) return;
  const Host& host = *hosts_[Index(fullest->device.host)];
  const bool same_host = fullest->device.host == emptiest->device.host;
  Replica* best = nullptr;
  double best_after = most - kMoveGap / 2;
  for (Replica* replica : fullest->replicas) {
    if (replica->jobs() == 0 || fullest->running == replica || fullest->turn.replica == replica ||
        replica->loading || replica->model->model.pinned)
      continue;
    if (now - replica->moved_at < kMoveRest && replica->moved_at > 0) continue;
    if (!MayUse(*replica->model, *emptiest)) continue;
    if (!same_host && (!replica->active.empty() || !replica->spilled.empty())) continue;
    if (std::any_of(replica->spilled.begin(), replica->spilled.end(),
                    [](const Job* job) { return job->place != Place::kSpilled; }))
      continue;
    uint64_t bytes = 0;
    for (const Job* job : replica->active) bytes += KvBytes(*replica->model, job->computed);
    if (bytes > host.free()) continue;
    const double load = ReplicaLoad(*replica, 0, 0);
    const double there =
        std::max(LoadOf(*emptiest) + load, WeightPressure(*emptiest, replica->model->weight_bytes));
    const double after = std::max(there, fullest->cordoned ? 0 : LoadOf(*fullest) - load);
    if (after < best_after) {
      best_after = after;
      best = replica;
    }
  }
  if (best != nullptr) MoveReplica(*best, *emptiest, now, effects);
}

void TidepoolScheduler::MoveReplica(Replica& replica, Device& to, Nanoseconds now,
                                    std::vector<Effect>& effects) {
  ++counters_.moves;
  ReplicaOf(*replica.model, to).moved_at = now;
  for (size_t i = replica.waiting.size(); i-- > 0;) {
    Job& job = *replica.waiting[i];
    if (job.asked) continue;
    Detach(job);
    Assign(job, to, now);
  }
  while (!replica.spilled.empty()) {
    Job& job = *replica.spilled.back();
    Detach(job);
    Attach(job, ReplicaOf(*replica.model, to), Place::kSpilled);
  }
  while (!replica.active.empty()) {
    Job& job = *replica.active.back();
    if (job.computed == 0) {
      EmitDrop(job, Reason::kMove, effects);
      Detach(job);
      Assign(job, to, now);
      continue;
    }
    job.move_to = &to;
    EmitSpill(job, Reason::kMove, effects);
  }
}

}  // namespace pool
}  // namespace tidepool::compute
