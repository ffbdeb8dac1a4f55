// Where a request goes, whether it is promised anything, and which model moves to another device.
#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "compute/scheduler/tidepool_policy.h"
#include "compute/scheduler/tidepool_scheduler.h"

namespace tidepool::compute::pool {
namespace {

double Square(double x) { return x * x; }
double Congestion(double load) { return load <= kComfort ? 0 : 4 * Square(load - kComfort); }

}  // namespace

// ---- placement -----------------------------------------------------------------------------------------

bool TidepoolScheduler::MayUse(const Model& model, const Device& device) const {
  if (device.cordoned) return false;
  const auto& allowed = model.model.devices;
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), device.id) != allowed.end();
}

// Share of the copy engine that the bytes beyond what fits would keep busy, round after round.
double TidepoolScheduler::WeightPressure(const Device& device, const Model* more, View view) const {
  FilesOnce files;
  uint64_t wanted = device.kv_bytes;
  for (const Replica* replica : device.replicas) {
    if (replica->jobs(view) > 0) wanted += files.BytesOf(*replica->model);
  }
  if (more != nullptr) wanted += files.BytesOf(*more);
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
      more = ProfileOf(model, device).StepSeconds(0, 0, job.prompt, 1) / tpot;
    }
    const double after = before + more;
    double cost = more + Congestion(after) - Congestion(before) + 0.05 * before;
    double load_s = 0;
    if (!joins) {
      const double pressed = WeightPressure(device, nullptr, view),
                   pressed_after = WeightPressure(device, &model, view);
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
      best.device = &device;
      best.cost = cost;
    }
    if (!joins && (best.apart == nullptr || cost < best.apart_cost)) {
      best.apart = &device;
      best.apart_cost = cost;
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
TidepoolScheduler::Demand TidepoolScheduler::DemandWith(const Device& device, const Job& job, View view,
                                                        const Account* below, Nanoseconds now) const {
  constexpr size_t kTimes = 11;  // what is due between two of them counts at the later one: 1.4 times as late
  std::array<double, kTimes> time_s{}, compute_s{}, copy_s{};
  for (size_t i = 0; i < kTimes; ++i)
    time_s[i] = static_cast<double>(job.ttft) * 1e-9 * std::exp2(0.5 * static_cast<double>(i) - 2);
  FilesOnce files;
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
    wanted += files.BytesOf(model);
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
  Demand worst{.compute = queue_s / ttft_s};
  for (size_t i = 0; i < kTimes; ++i) {
    const double copies_s = std::max(copy_s[i], round_s * time_s[i] / (kRoundOfTtft * ttft_s)) +
                            (time_s[i] < read_from_s ? 0 : read_s);
    worst.compute = std::max(worst.compute, device.pace * compute_s[i] / time_s[i]);
    worst.copies = std::max(worst.copies, copies_s / time_s[i]);
  }
  return worst;
}

// How far beyond what can be promised the best device would be; at most 0: it is not.
double TidepoolScheduler::Overload(const Job& job, const Device& device, Nanoseconds now) const {
  if (options_.admission_load <= 0) return 0;
  const bool beyond = accounts_.shared() && Beyond(job, now);
  // Promises that are not kept were too many: whatever the estimates say, fewer are made until they are. Not
  // to an account that keeps within its share.
  const bool interactive = job.job.job_class == JobClass::kInteractive;
  double limit = (interactive ? 1 : kPromise) * options_.admission_load;
  if (beyond || !accounts_.shared())
    limit *= std::clamp(1 - kLateCuts * (device.late_share - kLateMeant), kLeastPromise, 1.0);
  if (job.job.job_class == JobClass::kBatch) limit *= kBatchShare;
  // What came beyond a share counts for those within theirs only while somebody else is there to have it.
  const View view = accounts_.shared() && !beyond ? View::kWithinShare : View::kAll;
  const Replica* there = FindReplica(*job.model, device);
  double compute = limit, copies = limit;
  if (beyond) {
    compute *= kBeyondShare;
    copies *= kBeyondShare;
  } else if (job.job.job_class != JobClass::kBatch && there != nullptr && there->jobs(view) > 0) {
    copies *= kJoins;
  }
  const auto beyond_limit = [&](const Demand& demand, double part) {
    return std::max(demand.compute - part * compute, demand.copies - part * copies);
  };
  const double over = beyond_limit(DemandWith(device, job, view, nullptr, now), 1);
  if (over <= 0 || !accounts_.shared()) return over;
  // What an account, or what it is part of, needs within its share is not refused for what others sent.
  for (const Account* node = job.account; node->parent != nullptr; node = node->parent) {
    const double share = AccountTree::ShareOf(*node);
    // Requests do not come evenly, and who has had hardly more than the others may have more at once.
    const bool behind = AccountTree::ServiceAhead(*job.account) < kBehind * BurstSeconds(job);
    const double burst = behind ? kOwnBurstBehind : kOwnBurst;
    const double part = beyond ? share / kBeyondShare : share + burst * (1 - share);
    if (share < 1 && beyond_limit(DemandWith(device, job, View::kAll, node, now), part) <= 0) return 0;
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
    Fit fit = BestFit(*job, now);
    if (fit.device == nullptr && job->placed) {  // until one is open again
      unplaced_.push_back(job);
      job->place_at = now + kSecond;
      wake_at_ = std::min(wake_at_, job->place_at);
      continue;
    }
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
    double over = job->placed ? 0 : Overload(*job, *fit.device, now);
    if (over > 0 && fit.apart != nullptr && fit.apart != fit.device &&
        WeightPressure(*fit.apart, job->model) <= 0) {
      // Where its model is at work there is too much to do: then another device begins with it that has
      // memory for it. One that has not would copy more for all of its models.
      const double apart = Overload(*job, *fit.apart, now);
      if (apart <= 0) fit.device = fit.apart;
      over = std::min(over, apart);
    }
    if (over > 0) {
      unplaced_.push_back(job);
      if (job->job.job_class == JobClass::kBatch) {
        job->place_at = now + kSecond;
        wake_at_ = std::min(wake_at_, job->place_at);
        continue;
      }
      fit.device->refused_at = job->account->refused_at = now;
      const double retry = std::clamp(10 * over, 1.0, 60.0);
      EmitReject(*job, Reason::kOverloaded, retry, job->model->waiting, now, effects);
      continue;
    }
    Assign(*job, *fit.device, now);
  }
}

// Who is refused although he has had more than the others has no burst left: he sends all the time, and would
// for ever be as far ahead as others are for a moment.
bool TidepoolScheduler::Beyond(const Job& job, Nanoseconds now) {
  const Account& account = *job.account;
  if (Refused(job, now) && AccountTree::ServiceAhead(account) > 0) return true;
  return AccountTree::ClockAhead(account, now) >= BurstSeconds(job);
}

// Its account is charged what it costs where it costs least: as one of a full batch. By this measure a device
// has time for all that it can ever serve; measured time would count an idle device's small batches as if it
// were full. Device::charge mends that, for accounts that it refuses.
void TidepoolScheduler::OnAssigned(Job& job, Nanoseconds now) {
  Device& device = *job.replica->device;
  job.placed = true;
  accounts_.Settle(*job.account, job.pledge, job.served_s);  // on a device it was moved from
  job.served_s = 0;
  const double full = std::min(job.model->model.max_sequences, kFullBatch);
  const double output = ExpectedOutput(job);
  job.charge = Refused(job, now) ? device.charge : 1;
  job.prefill_token_s = job.charge * PrefillSeconds(*job.model, device, job.prompt) / job.prompt;
  job.decode_token_s =
      job.charge * ProfileOf(*job.model, device).StepSeconds(0, 0, full * (job.prompt + output / 2), full) /
      full;
  Count(job, -1);
  job.beyond = Beyond(job, now);
  Count(job, +1);
  job.ahead_s = AccountTree::ClockAhead(*job.account, now);
  job.pledge =
      accounts_.Pledge(*job.account, job.prompt * job.prefill_token_s + output * job.decode_token_s, now);
  if (job.replica->resident()) device.turn.broken = true;
}

// ---- balance -------------------------------------------------------------------------------------------

void TidepoolScheduler::Rebalance(Nanoseconds now, std::vector<Effect>& effects) {
  Device *fullest = nullptr, *emptiest = nullptr;
  double most = 0, least = kNever;
  const auto pressure = [&](Device& device) {
    return std::max(LoadOf(device), WeightPressure(device, nullptr));
  };
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
    const double there = std::max(LoadOf(*emptiest) + load, WeightPressure(*emptiest, replica->model));
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

}  // namespace tidepool::compute::pool
