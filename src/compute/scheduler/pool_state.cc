#include "compute/scheduler/pool_state.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace tidepool::compute {

std::string_view EffectKindName(EffectKind kind) {
  switch (kind) {
    case EffectKind::kAdmit: return "admit";
    case EffectKind::kGrow: return "grow";
    case EffectKind::kRun: return "run";
    case EffectKind::kYield: return "yield";
    case EffectKind::kLoad: return "load";
    case EffectKind::kStopLoad: return "stop_load";
    case EffectKind::kEvict: return "evict";
    case EffectKind::kSpill: return "spill";
    case EffectKind::kRestore: return "restore";
    case EffectKind::kDrop: return "drop";
    case EffectKind::kReject: return "reject";
  }
  return "unknown";
}

std::string_view JobClassName(JobClass job_class) {
  switch (job_class) {
    case JobClass::kInteractive: return "interactive";
    case JobClass::kNormal: return "normal";
    case JobClass::kBatch: return "batch";
  }
  return "unknown";
}

std::optional<JobClass> FindJobClass(std::string_view name) {
  for (const JobClass one : {JobClass::kInteractive, JobClass::kNormal, JobClass::kBatch}) {
    if (name == JobClassName(one)) return one;
  }
  return std::nullopt;
}

std::string_view ReasonName(Reason reason) {
  switch (reason) {
    case Reason::kNone: return "none";
    case Reason::kTurn: return "turn";
    case Reason::kContinue: return "continue";
    case Reason::kUrgent: return "urgent";
    case Reason::kPrewarm: return "prewarm";
    case Reason::kPinned: return "pinned";
    case Reason::kIdle: return "idle";
    case Reason::kMoreSlack: return "more_slack";
    case Reason::kExpired: return "expired";
    case Reason::kDrain: return "drain";
    case Reason::kRoom: return "room";
    case Reason::kMove: return "move";
    case Reason::kOverloaded: return "overloaded";
    case Reason::kTooLarge: return "too_large";
    case Reason::kQuarantined: return "quarantined";
    case Reason::kNoDevice: return "no_device";
  }
  return "unknown";
}

namespace pool {
namespace {

constexpr double kRateSmoothing = 0.1;  // weight of a new measurement of a copy rate
constexpr Nanoseconds kFirstBackOff = 2 * kSecond, kLongestBackOff = 300 * kSecond;

}  // namespace

PoolState::~PoolState() = default;

// ---- what there is -------------------------------------------------------------------------------------

PoolHostId PoolState::AddHost(const PoolHost& host) {
  auto state = std::make_unique<Host>();
  state->host = host;
  hosts_.push_back(std::move(state));
  for (const auto& [id, model] : models_) model->warm.resize(hosts_.size());
  return static_cast<PoolHostId>(hosts_.size() - 1);
}

PoolDeviceId PoolState::AddDevice(const PoolDevice& device) {
  CHECK(device.host >= 0 && Index(device.host) < hosts_.size());
  auto state = std::make_unique<Device>();
  state->device = device;
  state->id = static_cast<PoolDeviceId>(devices_.size());
  state->arena = device.arena_bytes;
  state->copy_rate = device.copy_bytes_per_s;
  NewRoom(*state);
  hosts_[Index(device.host)]->devices.push_back(state.get());
  devices_.push_back(std::move(state));
  accounts_.set_devices(devices_.size());
  for (const auto& [id, model] : models_) model->replicas.resize(devices_.size());
  return static_cast<PoolDeviceId>(devices_.size() - 1);
}

void PoolState::AddModel(const PoolModel& model) {
  CHECK(model.model != 0 && model.max_sequences >= 1 && model.batch_tokens >= 1 && !model.profiles.empty());
  CHECK(model.max_step_tokens >= model.batch_tokens && model.max_logit_rows >= 1);
  auto state = std::make_unique<Model>();
  state->model = model;
  state->prefix_bytes.push_back(0);
  for (const uint64_t bytes : model.segment_bytes)
    state->prefix_bytes.push_back(state->prefix_bytes.back() + bytes);
  state->weight_bytes = state->prefix_bytes.back();
  state->replicas.resize(devices_.size());
  state->warm.resize(hosts_.size());
  for (const PoolHostId host : model.warm_hosts) state->warm.at(Index(host)) = true;
  Model& added = *state;
  CHECK(models_.emplace(model.model, std::move(state)).second);
  PlacePinned(added);
}

// A pinned model is loaded where there is most room, without waiting for a first request.
void PoolState::PlacePinned(Model& model) {
  if (!model.model.pinned) return;
  Device* best = nullptr;
  uint64_t most = 0;
  for (const auto& device : devices_) {
    const auto& allowed = model.model.devices;
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), device->id) == allowed.end()) continue;
    const Replica* replica = FindReplica(model, *device);
    if (replica != nullptr && (replica->landed > 0 || replica->loading)) return;
    uint64_t pinned = 0;
    for (const Replica* other : device->replicas) {
      if (other->model->model.pinned) pinned += other->model->weight_bytes;
    }
    const uint64_t room = device->cordoned || pinned >= device->arena ? 0 : device->arena - pinned;
    if (best == nullptr || room > most) {
      most = room;
      best = device.get();
    }
  }
  if (best == nullptr) return;
  ReplicaOf(model, *best);
  Touch(*best);
}

void PoolState::RemoveModel(PoolModelId id) {
  const auto entry = models_.find(id);
  CHECK(entry != models_.end());
  Model& model = *entry->second;
  CHECK(model.waiting == 0 && model.admitted == 0);
  for (Replica* replica : model.replicas) {
    if (replica == nullptr) continue;
    Device& device = *replica->device;
    CHECK(replica->jobs() == 0 && !replica->loading);
    SetSegments(*replica, 0);
    std::erase(device.replicas, replica);
    if (device.turn.replica == replica) device.turn = {};
    NewRoom(device);
    Touch(device);
    std::erase_if(replicas_, [&](const auto& r) { return r.get() == replica; });
  }
  models_.erase(entry);
}

void PoolState::UpdateModel(const PoolModel& update) {
  PoolModel& model = ModelOf(update.model).model;
  if (update.weights_id != model.weights_id) {  // whoever joins its file comes after it
    CHECK(model.weights_id == 0 && std::none_of(models_.begin(), models_.end(), [&](const auto& entry) {
            return entry.second->model.weights_id == update.weights_id;
          }));
    model.weights_id = update.weights_id;
  }
  model.ttft = update.ttft;
  model.tpot = update.tpot;
  model.weight = update.weight;
  model.pinned = update.pinned;
  model.idle_ttl = update.idle_ttl;
  model.min_resident = update.min_resident;
  model.devices = update.devices;
  PlacePinned(ModelOf(update.model));
  for (const auto& device : devices_) Touch(*device);
}

// ---- lists and bytes -----------------------------------------------------------------------------------

Job* PoolState::FindJob(PoolJobId job) const {
  const auto entry = jobs_.find(job);
  return entry == jobs_.end() ? nullptr : entry->second.get();
}

Replica* PoolState::FindReplica(const Model& model, const Device& device) const {
  return model.replicas[Index(device.id)];
}

Replica& PoolState::ReplicaOf(Model& model, Device& device) {
  Replica*& replica = model.replicas[Index(device.id)];
  if (replica == nullptr) {
    replicas_.push_back(std::make_unique<Replica>());
    replica = replicas_.back().get();
    replica->model = &model;
    replica->device = &device;
    device.replicas.push_back(replica);
  }
  return *replica;
}

// The context is what is expected, not what is so far: estimates of load then do not depend on how far a turn
// has come, so that taking its steps one by one or all at once leads to the same decisions.
void PoolState::Count(const Job& job, int32_t sign) {
  constexpr int32_t kExpectedOutput = 128;
  if (job.paused) return;
  Replica& replica = *job.replica;
  const int32_t context =
      sign * (job.job.prompt_tokens + std::min(job.job.max_output_tokens, kExpectedOutput));
  int32_t backlog = 0;
  if (job.place == Place::kActive) {
    replica.runnable += sign;
    if (job.prefilling()) {
      replica.prefilling += sign;
      backlog = sign * (job.prompt - job.computed);
    }
  } else if (job.place == Place::kWaiting) {
    backlog = sign * job.prompt;
  }
  replica.context += context;
  replica.backlog += backlog;
  if (job.beyond) {
    replica.beyond += sign;
    replica.beyond_context += context;
    replica.beyond_backlog += backlog;
  }
}

void PoolState::EraseFrom(std::vector<Job*>& list, Job& job) {
  list.erase(std::find(list.begin(), list.end(), &job));
}

void PoolState::Attach(Job& job, Replica& replica, Place place) {
  ++changes_;
  CHECK(job.replica == nullptr);
  job.replica = &replica;
  job.place = place;
  switch (place) {
    case Place::kWaiting:
      replica.waiting.push_back(&job);
      ++job.model->waiting;
      break;
    case Place::kActive:
      replica.active.push_back(&job);
      ++job.model->admitted;
      break;
    default: replica.spilled.push_back(&job); ++job.model->admitted;
  }
  Count(job, +1);
  Touch(*replica.device);
}

void PoolState::Detach(Job& job) {
  ++changes_;
  Replica& replica = *job.replica;
  Count(job, -1);
  switch (job.place) {
    case Place::kWaiting:
      EraseFrom(replica.waiting, job);
      --job.model->waiting;
      break;
    case Place::kActive:
      EraseFrom(replica.active, job);
      --job.model->admitted;
      break;
    default: EraseFrom(replica.spilled, job); --job.model->admitted;
  }
  job.replica = nullptr;
  job.place = Place::kNowhere;
  Touch(*replica.device);
}

void PoolState::ChargeDevice(Job& job, uint64_t bytes) {
  // While it moves a job has no replica of its own list's meaning: the device is remembered by the move.
  Device& device = *job.on;
  device.kv_bytes += bytes - job.device_bytes;
  job.device_bytes = bytes;
  if (bytes == 0) {
    job.on = nullptr;
    NewRoom(device);
    Touch(device);
  }
}

void PoolState::ChargeHost(Job& job, uint64_t bytes) {
  if (job.spilled_to == nullptr) return;
  Host& host = *job.spilled_to;
  host.kv_bytes += bytes - job.host_bytes;
  job.host_bytes = bytes;
  if (bytes == 0) job.spilled_to = nullptr;
}

void PoolState::Assign(Job& job, Device& device, Nanoseconds now) {
  Attach(job, ReplicaOf(*job.model, device), Place::kWaiting);
  OnAssigned(job, now);
}

void PoolState::ReturnHostRoom(Host& host) {
  host.full = false;
  for (Device* device : host.devices) {
    NewRoom(*device);
    Break(*device);
  }
}

void PoolState::Commit(Job& job, uint64_t bytes) {
  Host& host = *job.committed_to;
  host.committed += bytes - job.committed;
  const auto held = host.committed_to.try_emplace(job.account).first;
  held->second += bytes - job.committed;
  if (held->second == 0) host.committed_to.erase(held);
  job.committed = bytes;
}

void PoolState::Free(Job& job, Nanoseconds now) {
  if (job.committed > 0) {
    Commit(job, 0);
    if (job.committed_to->full) ReturnHostRoom(*job.committed_to);
  }
  accounts_.Settle(*job.account, job.pledge, job.served_s);
  accounts_.Release(job.account, now);
  jobs_.erase(job.job.job);
}

// ---- events: jobs --------------------------------------------------------------------------------------

void PoolState::Arrive(const PoolJob& arriving, Nanoseconds now) {
  CHECK(arriving.job != 0 && arriving.prompt_tokens >= 1);
  Model& model = ModelOf(arriving.model);
  CHECK(model.model.causal || arriving.prompt_tokens <= model.model.max_step_tokens);
  auto state = std::make_unique<Job>();
  Job& job = *state;
  job.job = arriving;
  job.model = &model;
  job.account = accounts_.Acquire(arriving.account, arriving.account_weights, now);
  job.prompt = arriving.prompt_tokens;
  job.arrival_order = ++arrivals_;
  job.arrival = job.served_at = now;
  job.ttft = arriving.ttft > 0 ? arriving.ttft : model.model.ttft;
  job.tpot = arriving.tpot > 0 ? arriving.tpot : model.model.tpot;
  if (arriving.job_class == JobClass::kBatch) {
    // No one waits for it: it takes what is left, and its turn comes within the hour.
    job.ttft = std::max(job.ttft * 100, 3600 * kSecond);
    job.tpot *= 10;
  }
  ++counters_.arrivals;
  ++model.arrivals;
  if (model.last_arrival >= 0) {
    const double gap = static_cast<double>(now - model.last_arrival) * 1e-9;
    model.arrival_gap_s = model.arrival_gap_s == 0 ? gap : 0.9 * model.arrival_gap_s + 0.1 * gap;
  }
  model.mean_prompt = model.mean_prompt == 0 ? job.prompt : 0.9 * model.mean_prompt + 0.1 * job.prompt;
  model.last_arrival = now;
  CHECK(jobs_.emplace(arriving.job, std::move(state)).second);
  PlaceJob(job, now);
  if (job.replica == nullptr && FindJob(arriving.job) != nullptr) unplaced_.push_back(&job);
}

void PoolState::SetPaused(PoolJobId id, bool paused, Nanoseconds /*now*/) {
  Job* job = FindJob(id);
  if (job == nullptr || job->paused == paused) return;
  if (job->replica != nullptr) Count(*job, -1);
  job->paused = paused;
  if (job->replica != nullptr) {
    Count(*job, +1);
    Break(*job->replica->device);
  }
}

void PoolState::Remove(PoolJobId id, Nanoseconds now) {
  Job* job = FindJob(id);
  if (job == nullptr || job->gone) return;
  CHECK(!job->asked);
  if (job->produced > 0) {
    double& mean = job->model->mean_output;
    mean = mean == 0 ? job->produced : 0.95 * mean + 0.05 * job->produced;
  }
  if (job->replica == nullptr) {
    std::erase(unplaced_, job);
    Free(*job, now);
    return;
  }
  Device& device = *job->replica->device;
  if (job->produced > 0 && !job->beyond && job->job.job_class != JobClass::kBatch) {
    constexpr double kLateSmoothing = 1.0 / 32;
    const bool late = job->served_at > job->due() - job->tpot;  // its last token
    device.late_share += kLateSmoothing * ((late ? 1 : 0) - device.late_share);
  }
  const Place place = job->place;
  Replica& replica = *job->replica;
  Detach(*job);
  if (device.turn.replica == &replica && replica.runnable == 0) device.turn.broken = true;
  if (place == Place::kSpilling || place == Place::kRestoring) {
    job->gone = true;  // what a copy still reads or writes stays charged until it has ended
    job->place = place;
    return;
  }
  if (job->on != nullptr) ChargeDevice(*job, 0);
  if (job->spilled_to != nullptr) ChargeHost(*job, 0);
  NewRoom(device);
  Free(*job, now);
}

void PoolState::Admitted(PoolJobId id, int32_t cached_tokens) {
  Job& job = *FindJob(id);
  CHECK(job.asked && job.place == Place::kWaiting && cached_tokens >= 0 && cached_tokens < job.prompt);
  Replica& replica = *job.replica;
  job.asked = false;
  --replica.device->asked;
  Detach(job);
  job.computed = cached_tokens;
  Attach(job, replica, Place::kActive);
  for (Replica* other : replica.device->replicas) {
    for (Job* passed : other->waiting) {
      if (passed->refused_epoch > 0) ++passed->passed;
    }
  }
}

void PoolState::Grown(PoolJobId id) {
  Job& job = *FindJob(id);
  CHECK(job.asked);
  job.asked = false;
  --job.on->asked;
  Touch(*job.on);
}

void PoolState::NoRoom(PoolJobId id) {
  Job& job = *FindJob(id);
  CHECK(job.asked && job.on != nullptr);
  Device& device = *job.on;
  const uint64_t epoch = device.room_epoch;
  job.asked = false;
  --device.asked;
  if (job.place == Place::kWaiting) {
    job.reserved = 0;
    ChargeDevice(job, 0);
    Commit(job, 0);
  } else {
    job.reserved = job.held;
    ChargeDevice(job, KvBytes(*job.model, job.held));
  }
  job.refused_epoch = device.room_epoch = epoch;  // its own return of bytes is no new room
  Touch(device);
}

void PoolState::RoomReturned(PoolDeviceId device) {
  NewRoom(*devices_[Index(device)]);
  Touch(*devices_[Index(device)]);
}

double PoolState::TakeSteps(Device& device, int32_t steps, Nanoseconds busy, Nanoseconds now) {
  CHECK(device.busy && steps >= 0 && steps <= device.plan.steps);
  const double planned_s = LearnStep(device, steps, busy);
  device.beyond_plan = 0;
  int64_t tokens = 0;
  for (const PlannedTokens& planned : device.plan.sequences) tokens += planned.count;
  for (const PlannedTokens& planned : device.plan.sequences) {
    Job* job = FindJob(planned.job);
    if (job == nullptr || job->gone) continue;  // ended by this step, or cancelled while it ran
    if (job->replica == nullptr) continue;
    Count(*job, -1);
    const bool was_prefill = job->prefilling();
    job->computed += planned.count * steps;  // a prefill is one step, or none when it was given up
    if (job->job.wants_logits) {
      if (!was_prefill) {
        job->produced += steps;
      } else if (!job->prefilling() && steps > 0) {
        ++job->produced;
      }
    }
    if (steps > 0) job->served_at = now;
    double took_s = steps * (was_prefill ? planned.count * job->prefill_token_s : job->decode_token_s);
    if (job->prefill_token_s <= 0 && job->decode_token_s <= 0 && steps > 0) {
      // The profile of its model says nothing: its part of what the step took, by tokens.
      took_s = static_cast<double>(busy) * 1e-9 * planned.count / static_cast<double>(tokens);
    }
    job->served_s += took_s;
    device.step_charged_s += took_s / job->charge;
    accounts_.Serve(*job->account, took_s);
    Count(*job, +1);
  }
  device.running->last_used = now;
  if (device.turn.replica == device.running) device.turn.steps_left -= steps;
  return planned_s;
}

void PoolState::StepDone(PoolDeviceId id, int32_t steps, Nanoseconds busy, Nanoseconds now) {
  Device& device = *devices_[Index(id)];
  const double planned_s = TakeSteps(device, steps, busy, now);
  LearnPace(device, planned_s, busy, now);
  device.step_charged_s = 0;
  device.busy = device.yielding = device.landing = false;
  device.running = nullptr;
  device.step_ended = true;
}

void PoolState::StepsTaken(PoolDeviceId id, int32_t steps, Nanoseconds busy, Nanoseconds now) {
  Device& device = *devices_[Index(id)];
  CHECK(steps >= 1 && steps < device.plan.steps);  // of decodes only, then
  const double planned_s = TakeSteps(device, steps, busy, now);
  LearnPace(device, planned_s, busy, now);
  device.step_charged_s = 0;
  device.plan.steps -= steps;
  for (PlannedTokens& planned : device.plan.sequences) {
    planned.begin += steps;
    planned.spare -= steps;
  }
}

void PoolState::TokensTaken(PoolJobId id, int32_t tokens) {
  Job* const job = FindJob(id);
  CHECK(job != nullptr && job->place == Place::kActive && !job->prefilling() && tokens >= 1 &&
        job->computed + tokens < job->reserved);
  Device& device = *job->replica->device;
  CHECK(device.running == job->replica);
  Count(*job, -1);
  job->computed += tokens;
  job->produced += tokens;
  const double took_s = tokens * job->decode_token_s;
  device.step_charged_s += took_s / job->charge;
  job->served_s += took_s;
  accounts_.Serve(*job->account, took_s);
  Count(*job, +1);
  device.beyond_plan += tokens;
}

// ---- events: weights -----------------------------------------------------------------------------------

void PoolState::LoadDone(PoolDeviceId id, PoolModelId model_id, Nanoseconds now) {
  Device& device = *devices_[Index(id)];
  Replica& replica = *device.loading;
  Model& model = *replica.model;
  CHECK(replica.loading && model.model.model == model_id);
  const uint64_t bytes = replica.load_bytes;
  const double seconds = static_cast<double>(now - replica.load_began) * 1e-9;
  if (seconds > 1e-6 && bytes > 0) {
    const double rate = static_cast<double>(bytes) / seconds;
    if (model.warm[Index(device.device.host)]) device.copy_rate += kRateSmoothing * (rate - device.copy_rate);
  }
  replica.landed = replica.loading_to;
  replica.loading = replica.stopping = false;
  replica.landed_at = now;
  replica.served = device.running == &replica;  // a step began on landing layers
  model.load_failures = 0;
  model.prefetch = false;
  model.warm[Index(device.device.host)] = true;
  device.loading = nullptr;
  device.land_at = INT64_MAX;
  device.lands = false;
  ++counters_.loads;
  counters_.bytes_loaded += bytes;
  if (device.blocked_since >= 0)
    ChargeSwitch(replica, now - std::max(device.blocked_since, replica.load_began));
  CheckRates(device, now, false, true);
  Break(device);
}

// A device that stood still for a load worked for those who wanted it: what their accounts have had.
void PoolState::ChargeSwitch(const Replica& replica, Nanoseconds stood) {
  if (stood <= 0 || replica.jobs() == 0) return;
  const double each_s = static_cast<double>(stood) * 1e-9 / replica.jobs();
  for (const auto* list : {&replica.waiting, &replica.active, &replica.spilled}) {
    for (const Job* job : *list) accounts_.Serve(*job->account, each_s);
  }
}

void PoolState::LoadStopped(PoolDeviceId id, PoolModelId model_id, int32_t segments, Nanoseconds now) {
  Device& device = *devices_[Index(id)];
  Replica& replica = *device.loading;
  CHECK(replica.loading && replica.model->model.model == model_id && segments <= replica.loading_to);
  replica.landed = segments;
  SetSegments(replica, segments);
  replica.loading = replica.stopping = false;
  replica.landed_at = now;
  device.loading = nullptr;
  device.land_at = INT64_MAX;
  device.lands = false;
  NewRoom(device);
  Touch(device);
}

void PoolState::LoadFailed(PoolDeviceId id, PoolModelId model_id, int32_t segments, uint64_t missing_bytes,
                           Nanoseconds now) {
  Model& model = ModelOf(model_id);
  LoadStopped(id, model_id, segments, now);
  ++counters_.load_failures;
  // Short of room is nobody's fault: the driver's arena was smaller than ours; a moment later it is tried
  // again. A file that cannot be read is tried again after 2, 4, 8 ... seconds.
  const Nanoseconds wait =
      missing_bytes > 0 ? kSecond / 10
                        : std::min(kFirstBackOff << std::min(model.load_failures, 20), kLongestBackOff);
  if (missing_bytes == 0) ++model.load_failures;
  model.quarantined_until = now + wait;
  wake_at_ = std::min(wake_at_, model.quarantined_until);
}

void PoolState::Warmed(PoolHostId host, PoolModelId model, bool warm) {
  ModelOf(model).warm[Index(host)] = warm;
}

// ---- events: KV moves ----------------------------------------------------------------------------------

void PoolState::SpillDone(PoolJobId id, bool ok, Nanoseconds now) {
  Job& job = *FindJob(id);
  CHECK(job.place == Place::kSpilling);
  Device& device = *job.on;
  --device.spilling;
  device.spilling_bytes -= job.device_bytes;
  if (job.gone || ok) {
    counters_.bytes_spilled += job.host_bytes;
    ChargeDevice(job, 0);
    job.reserved = 0;
  }
  if (job.gone || !ok) ChargeHost(job, 0);
  Touch(device);
  if (job.gone) {
    Free(job, now);
    return;
  }
  Replica& replica = *job.replica;
  Detach(job);
  if (!ok) {
    job.move_to = nullptr;
    job.spill_refused_epoch = device.room_epoch;
    Attach(job, replica, Place::kActive);
    return;
  }
  Device* target = job.move_to != nullptr ? job.move_to : &device;
  job.move_to = nullptr;
  Attach(job, ReplicaOf(*job.model, *target), Place::kSpilled);
}

void PoolState::RestoreDone(PoolJobId id, bool ok, Nanoseconds now) {
  Job& job = *FindJob(id);
  CHECK(job.place == Place::kRestoring);
  Device& device = *job.on;
  const uint64_t epoch = device.room_epoch;
  --device.restoring;
  if (job.gone || ok) {
    counters_.bytes_restored += job.host_bytes;
    ChargeHost(job, 0);
  }
  if (job.gone || !ok) {
    ChargeDevice(job, 0);
    job.reserved = 0;
  }
  Touch(device);
  if (job.gone) {
    Free(job, now);
    return;
  }
  Replica& replica = *job.replica;
  Detach(job);
  Attach(job, replica, ok ? Place::kActive : Place::kSpilled);
  if (!ok) job.refused_epoch = device.room_epoch = epoch;
  Break(device);
}

// ---- events: capacity ----------------------------------------------------------------------------------

void PoolState::Prefetch(PoolModelId id, Nanoseconds /*now*/) {
  Model& model = ModelOf(id);
  model.prefetch = true;
  for (const auto& device : devices_) {
    if (device->cordoned) continue;
    ReplicaOf(model, *device);
    Touch(*device);
    break;
  }
}

void PoolState::SetArena(PoolDeviceId id, uint64_t bytes, Nanoseconds now) {
  Device& device = *devices_[Index(id)];
  if (bytes != device.arena) {
    // What was short of room is decided anew by what is known now: in a smaller arena too, for what was
    // thought to be there and was not has to be made.
    NewRoom(device);
    for (const auto& [model_id, model] : models_) {
      if (model->load_failures == 0) model->quarantined_until = std::min(model->quarantined_until, now);
    }
  }
  device.arena = bytes;
  Touch(device);
}

void PoolState::SetHostKv(PoolHostId host, uint64_t bytes, Nanoseconds /*now*/) {
  hosts_[Index(host)]->host.kv_bytes = bytes;
  ReturnHostRoom(*hosts_[Index(host)]);
}

void PoolState::SetCordoned(PoolDeviceId id, bool cordoned, Nanoseconds /*now*/) {
  devices_[Index(id)]->cordoned = cordoned;
  accounts_.set_devices(static_cast<size_t>(
      std::count_if(devices_.begin(), devices_.end(), [](const auto& device) { return !device->cordoned; })));
  for (const auto& device : devices_) Touch(*device);
}

// ---- what is -------------------------------------------------------------------------------------------

// Smoothed over a minute: x' = x e^(-dt/60) + new.
void PoolState::CheckRates(Device& device, Nanoseconds now, bool blocked, bool switched) {
  const double dt = static_cast<double>(now - device.rates_at) * 1e-9;
  const double keep = std::exp(-dt / 60);
  device.rates_at = now;
  if (blocked) device.step_ended_at = -1;  // it waits for weights, which promises count as copies
  const bool was_blocked = device.blocked_since >= 0;
  device.wait_share = device.wait_share * keep + (was_blocked ? 1 - keep : 0);
  device.switch_rate = device.switch_rate * keep + (switched ? 1.0 / 60 : 0);
  device.blocked_since = blocked ? now : -1;
}

DeviceState PoolState::device_state(PoolDeviceId id, Nanoseconds now) const {
  Device& device = *devices_[Index(id)];
  DeviceState state;
  state.arena_bytes = device.arena;
  state.weight_bytes = device.weight_bytes;
  state.kv_bytes = device.kv_bytes;
  state.cordoned = device.cordoned;
  state.busy = device.busy;
  state.running = device.running == nullptr ? 0 : device.running->model->model.model;
  state.load = LoadOf(device);
  const double keep = std::exp(-static_cast<double>(now - device.rates_at) * 1e-9 / 60);
  state.switch_share = device.wait_share * keep + (device.blocked_since >= 0 ? 1 - keep : 0);
  state.switches_per_s = device.switch_rate * keep;
  for (const Replica* replica : device.replicas) {
    ReplicaState r;
    r.model = replica->model->model.model;
    r.segments = replica->model->segments();
    r.resident_segments = replica->landed;
    r.loading = replica->loading;
    r.resident_bytes = replica->model->prefix_bytes[Index(replica->landed)];
    r.waiting = static_cast<int32_t>(replica->waiting.size());
    r.active = static_cast<int32_t>(replica->active.size());
    r.spilled = static_cast<int32_t>(replica->spilled.size());
    r.load = ReplicaLoad(*replica, 0, 0);
    r.load_failures = replica->model->load_failures;
    if (r.load_failures > 0 && replica->model->quarantined_until > now)
      r.retry_in_s = static_cast<double>(replica->model->quarantined_until - now) * 1e-9;
    bool first = true;
    for (const auto* list : {&replica->waiting, &replica->active, &replica->spilled}) {
      for (const Job* job : *list) {
        r.kv_bytes += job->device_bytes;
        if (job->paused) continue;
        const double slack = Slack(*job, now);
        r.slack_s = first ? slack : std::min(r.slack_s, slack);
        first = false;
      }
    }
    state.replicas.push_back(r);
  }
  return state;
}

void PoolState::ListWaiting(PoolModelId id, std::vector<PoolJobId>& out) const {
  order_.clear();
  const Model& model = ModelOf(id);
  for (const Replica* replica : model.replicas) {
    if (replica != nullptr) order_.insert(order_.end(), replica->waiting.begin(), replica->waiting.end());
  }
  for (Job* job : unplaced_) {
    if (job->model == &model) order_.push_back(job);
  }
  std::sort(order_.begin(), order_.end(),
            [](const Job* a, const Job* b) { return a->arrival_order < b->arrival_order; });
  for (const Job* job : order_) out.push_back(job->job.job);
}

}  // namespace pool
}  // namespace tidepool::compute
