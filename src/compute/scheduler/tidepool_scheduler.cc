#include "compute/scheduler/tidepool_scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "compute/scheduler/tidepool_policy.h"

namespace tidepool::compute {

std::unique_ptr<PoolScheduler> MakeTidepoolScheduler(const PoolPolicyOptions& options) {
  return std::make_unique<pool::TidepoolScheduler>(options);
}

namespace pool {

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
  if (job.job.job_class == JobClass::kInteractive) {
    // Never before what has gone unserved for the age bound.
    const double ahead = slack - kInteractiveAhead * static_cast<double>(job.ttft) * 1e-9;
    slack = std::max(ahead, std::min(slack, -1.5 * kLateGrace_s));
  }
  return device == nullptr ? slack : slack + AheadSeconds(job, *device, now);
}

// What came beyond its account's share stays behind what came within it; when promises are not kept, what
// accounts have had decides too.
double TidepoolScheduler::AheadSeconds(const Job& job, const Device& device, Nanoseconds now) const {
  if (!accounts_.shared()) return 0;
  const double ttft_s = static_cast<double>(job.ttft) * 1e-9;
  if (job.beyond && !device.late) return ttft_s;
  const double burst_s = BurstSeconds(job);
  const bool refused = Refused(job, now);
  if (device.late) {
    return std::clamp(job.ahead_s - burst_s, 0.0, ttft_s) + AccountTree::ServiceAhead(*job.account) +
           (refused && job.beyond ? ttft_s : 0);
  }
  // What came a little ahead, as everybody's requests do now and then, does not wait; what came a whole burst
  // ahead waits for all that can still begin in time.
  const double ramp_s = 0.5 * kBurst * ttft_s;
  const double sent_s = ttft_s * std::clamp((job.ahead_s - burst_s) / ramp_s + 1, 0.0, 1.0);
  // Of an account that is refused also what it sent before: the device is full of it, and all that came first
  // would be done first, up to the last moment of the promises of those that come now.
  if (!refused) return sent_s;
  return std::max(sent_s, std::clamp(AccountTree::ServiceAhead(*job.account), 0.0, ttft_s));
}

// So far ahead of its share an account may be: a part of the time to the first token, or a few requests.
double TidepoolScheduler::BurstSeconds(const Job& job) {
  return std::max(kBurst * static_cast<double>(job.ttft) * 1e-9, kOwnRequests * job.account->request_s);
}

Urgencies TidepoolScheduler::LookUrgencies(const Replica& replica, Nanoseconds now) const {
  const uint64_t epoch = replica.device->room_epoch;
  Urgencies least;
  for (const auto* list : {&replica.active, &replica.waiting, &replica.spilled}) {
    for (const Job* job : *list) {
      if (job->paused) continue;
      const double urgency = Urgency(*job, now);
      least.any = std::min(least.any, urgency);
      if (list == &replica.spilled) continue;
      const bool has_room = list == &replica.active && job->computed < job->reserved;
      if (has_room || job->refused_epoch != epoch) least.turn = std::min(least.turn, urgency);
      if (urgency < least.prompt && job->prefilling() && !Refused(*job, now)) least.prompt = urgency;
    }
  }
  return least;
}

const Urgencies& TidepoolScheduler::UrgenciesOf(Replica& replica, Nanoseconds now) const {
  if (replica.urgencies_of != changes_) {
    replica.urgencies = LookUrgencies(replica, now);
    replica.urgencies_of = changes_;
  }
  return replica.urgencies;
}

std::string TidepoolScheduler::CheckDecision(Nanoseconds now) const {
  for (const auto& replica : replicas_) {
    if (replica->urgencies_of != changes_) continue;
    const Urgencies least = LookUrgencies(*replica, now), &kept = replica->urgencies;
    // What has been refused room since does not count for a turn any more.
    if (least.any != kept.any || least.turn < kept.turn || least.prompt != kept.prompt) {
      return fmt::format("model {}: its urgencies {}, {} and {} are kept as {}, {} and {}",
                         replica->model->model.model, least.any, least.turn, least.prompt, kept.any,
                         kept.turn, kept.prompt);
    }
  }
  return {};
}

// ---- a device ------------------------------------------------------------------------------------------

void TidepoolScheduler::Decide(Nanoseconds now, std::vector<Effect>& effects) {
  ++counters_.decisions;
  ++changes_;
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
      NewRoom(*device);
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
  if (LoadLeft(*replica, now) < -kOverdue * LoadSeconds(*replica)) return;  // nobody knows when it will end
  const double early_s = step_s * (1 - 1.0 / model.segments());
  // From when it began, not from now: the same time whenever it is asked for.
  const Nanoseconds at =
      replica->load_began + static_cast<Nanoseconds>((LoadSeconds(*replica) - early_s) * 1e9);
  if (at > now) {
    device.land_at = at;
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

// Prompt tokens of jobs beyond their account's share in a step, which whoever comes meanwhile waits for: few
// where they take long. When promises are not kept the device needs larger steps.
int32_t TidepoolScheduler::BeyondTokens(const Replica& replica) const {
  const double all_s = PrefillSeconds(*replica.model, *replica.device, kBeyondTokens);
  const double share = std::clamp(kBeyondStep_s / all_s, kLeastBeyond, 1.0);
  return static_cast<int32_t>(share * (replica.device->late ? 2 * kBeyondTokens : kBeyondTokens));
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
                           .most_beyond = !accounts_.shared() ? INT32_MAX : BeyondTokens(replica)};
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

// A model has its turn for its most urgent job; prompts of its others come with it, and take ten times as
// long as a step of decodes. Those of an account that is refused do not while a more urgent one of somebody
// else waits for another model's turn. When answers are late steps must be large.
bool TidepoolScheduler::MayLengthen(const Job& job, Nanoseconds now) const {
  const Device& device = *job.replica->device;
  if (!accounts_.shared() || device.late || !Refused(job, now)) return true;
  return Urgency(job, now) <= device.turn.first_prompt_s - static_cast<double>(now) * 1e-9;
}

double TidepoolScheduler::FirstPrompt(const Device& device, const Replica& turn, Nanoseconds now) const {
  double least = kNever;
  for (Replica* replica : device.replicas) {
    if (replica == &turn || !replica->resident() || replica->jobs() == 0) continue;
    least = std::min(least, UrgenciesOf(*replica, now).prompt);
  }
  return least + static_cast<double>(now) * 1e-9;
}

bool TidepoolScheduler::BeginTurn(Device& device, Nanoseconds now) {
  Turn& turn = device.turn;
  Replica* best = nullptr;
  double first = kNever, second = kNever;
  bool blocked = false;
  if (accounts_.shared()) {
    const bool was_late = std::exchange(device.late, AnyLate(device, now));
    if (device.late != was_late) ++changes_;
  }
  for (Replica* replica : device.replicas) {
    if (replica->jobs() == 0 || replica->attempt == attempts_) continue;
    if (!Ready(*replica)) {
      blocked |= !replica->resident();
      continue;
    }
    const double urgency = UrgenciesOf(*replica, now).turn;
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
    device.step_ended_at = -1;  // nothing to do
    CheckRates(device, now, blocked, false);
    return false;
  }
  if (device.blocked_since >= 0) CheckRates(device, now, false, false);
  const double tpot = static_cast<double>(best->model->model.tpot) * 1e-9;
  const double steps = second == kNever ? 1e9 : std::ceil(kTurnTokens + (second - first) / tpot);
  turn = {.replica = best,
          .steps_left = static_cast<int32_t>(std::clamp(steps, 1.0, 1e9)),
          .broken = false,
          .first_prompt_s = accounts_.shared() ? FirstPrompt(device, *best, now) : kNever};
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

}  // namespace pool
}  // namespace tidepool::compute
