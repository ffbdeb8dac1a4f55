// What is known of deployments, and what keeps them in memory or lets them go: states, failures and their
// back-off, policies, pins, the number of registered models.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "platform/inference/deployments.h"
#include "platform/inference/named_deployments.h"

namespace tidepool::platform {
namespace {

constexpr int32_t kPatientFailures = 3;  // in a row, before a model is left alone for a while
constexpr Nanoseconds kFirstQuarantine = 2 * kSecond;
constexpr Nanoseconds kLongestQuarantine = 120 * kSecond;

// Until steps have been measured. Decode reads every weight once a step; prefill and further sequences cost
// their multiplications (2 a parameter and token).
compute::StepProfile GuessProfile(const architectures::ModelInfo& info, const chips::Roofline& roofline) {
  compute::StepProfile profile;
  if (roofline.memory_bytes_per_s > 0) {
    profile.decode_base_s = static_cast<double>(info.weight_bytes) / roofline.memory_bytes_per_s;
    profile.prefill_base_s = profile.decode_base_s;
  }
  const double operations_per_s = std::max(roofline.int8_ops_per_s, roofline.f32_flops_per_s);
  if (operations_per_s > 0) {
    profile.prefill_per_token_s = 2 * static_cast<double>(info.parameters) / operations_per_s;
    profile.decode_per_sequence_s = profile.prefill_per_token_s;
  }
  return profile;
}

bool SamePromises(const compute::ModelPolicy& a, const compute::ModelPolicy& b) {
  return a.ttft_s == b.ttft_s && a.tpot_s == b.tpot_s && a.weight == b.weight && a.pinned == b.pinned &&
         a.idle_ttl_s == b.idle_ttl_s && a.min_resident_s == b.min_resident_s;
}

SegmentCounts CountSegments(const compute::ResidentWeights& weights) {
  SegmentCounts counts;
  for (const compute::SegmentState state : weights.states()) {
    switch (state) {
      case compute::SegmentState::kCold: ++counts.cold; break;
      case compute::SegmentState::kWarm: ++counts.warm; break;
      case compute::SegmentState::kLoading: ++counts.loading; break;
      case compute::SegmentState::kResident: ++counts.resident; break;
    }
  }
  return counts;
}

const compute::ReplicaState* FindReplica(const compute::PoolReport* report, compute::ModelHandle handle) {
  if (report == nullptr) return nullptr;
  for (const compute::ReplicaState& replica : report->device.replicas) {
    if (replica.model == handle) return &replica;
  }
  return nullptr;
}

double SecondsUntil(Nanoseconds at, Nanoseconds now) {
  return at > now ? static_cast<double>(at - now) / static_cast<double>(kSecond) : 0;
}

}  // namespace

// ---- failures -----------------------------------------------------------------------------------------

// Not: no memory for it now, a load that nobody waited for any more, the end of the server.
bool Deployments::OwnFault(const Error& error) {
  switch (error.kind) {
    case ErrorKind::kCancelled:
    case ErrorKind::kOverloaded:
    case ErrorKind::kTimeout:
    case ErrorKind::kConflict: return false;
    case ErrorKind::kUnavailable:
      return error.code != "out_of_pool_memory" && error.code != "shutting_down" &&
             error.code != "packed_cache_full";
    default: return true;
  }
}

// Under the mutex.
void Deployments::NoteFailure(Deployment& deployment, const Error& error) {
  deployment.state = DeploymentState::kFailed;
  deployment.error = error;
  deployment.retry_at = 0;
  if (!OwnFault(error)) return;
  if (++deployment.failures < kPatientFailures) return;
  const Nanoseconds wait =
      std::min(kFirstQuarantine << std::min(deployment.failures - kPatientFailures, 16), kLongestQuarantine);
  deployment.retry_at = clock_.now() + wait;
}

bool Deployments::InQuarantine(const Deployment& deployment) const {
  return deployment.state == DeploymentState::kFailed && deployment.failures >= kPatientFailures &&
         clock_.now() < deployment.retry_at;
}

Error Deployments::Quarantined(const Deployment& deployment) const {
  const double wait_s = std::max(SecondsUntil(deployment.retry_at, clock_.now()), 1.0);
  return {ErrorKind::kUnavailable, "model_quarantined",
          fmt::format("model \"{}\" could not be loaded {} times in a row: {}; it is tried again in {:.0f} s "
                      "(tidepool stop {} lets it be tried at once)",
                      deployment.model.id, deployment.failures, deployment.error.message, wait_s,
                      deployment.model.id),
          "model", wait_s};
}

std::shared_ptr<const compute::PoolReport> Deployments::ReportIfFailing() const {
  return pool_load_failed_ ? engine_.pool() : nullptr;
}

// ---- looking ------------------------------------------------------------------------------------------

DeploymentStatus Deployments::StatusOf(const StoredModel& model,
                                       const std::vector<compute::ModelEntry>& entries,
                                       const compute::PoolReport* report) const {
  DeploymentStatus status;
  status.id = model.id;
  status.model = model;
  status.context_length = CapContext(model.context_length);
  const auto it = deployments_.find(model.id);
  if (it == deployments_.end()) return status;
  const Deployment& deployment = it->second;
  status.state = deployment.state;
  status.load_share = deployment.share;
  if (deployment.state == DeploymentState::kLoading) status.place = WeightPlace::kLoading;
  if (deployment.state == DeploymentState::kFailed) {
    status.error = deployment.error;
    if (InQuarantine(deployment)) {
      status.state = DeploymentState::kQuarantined;
      status.retry_in_s = SecondsUntil(deployment.retry_at, clock_.now());
    }
  }
  if (deployment.state != DeploymentState::kReady) return status;
  status.load_share = 1;
  status.context_length = deployment.ready.context_length;
  for (const compute::ModelEntry& entry : entries) {
    if (entry.handle == deployment.ready.handle) status.engine = entry;
  }
  if (!status.engine || !status.engine->pooled) {
    status.place = WeightPlace::kResident;
  } else if (status.engine->weights_loading) {
    status.place = WeightPlace::kLoading;
  } else if (status.engine->resident_weight_bytes > 0) {
    status.place = WeightPlace::kResident;
  } else if (const auto weights = deployment.weights.lock();
             weights != nullptr && weights->counts().warm > 0) {
    status.place = WeightPlace::kWarm;
  }
  const compute::ReplicaState* replica = FindReplica(report, deployment.ready.handle);
  if (deployment.weights_error && replica != nullptr && replica->load_failures > 0) {
    status.state = DeploymentState::kQuarantined;
    status.error = *deployment.weights_error;
    status.retry_in_s = replica->retry_in_s;
  }
  return status;
}

std::vector<DeploymentStatus> Deployments::List() const {
  const std::vector<compute::ModelEntry> entries = engine_.ListModels();
  const auto report = ReportIfFailing();
  std::vector<StoredModel> models = catalog_.List();
  const std::lock_guard lock(mutex_);
  for (const auto& [name, built_in] : built_in_) models.push_back(built_in.model);
  std::vector<DeploymentStatus> out;
  out.reserve(models.size());
  for (const StoredModel& model : models) out.push_back(StatusOf(model, entries, report.get()));
  return out;
}

Result<DeploymentStatus> Deployments::Find(std::string_view name) const {
  TP_ASSIGN(const StoredModel model, Resolve(name));
  const std::vector<compute::ModelEntry> entries = engine_.ListModels();
  const auto report = ReportIfFailing();
  const std::lock_guard lock(mutex_);
  return StatusOf(model, entries, report.get());
}

void Deployments::CountArrival(const std::string& id) {
  const std::lock_guard lock(mutex_);
  ++arrivals_[id];  // of stored models only: Resolve comes first
}

std::vector<PoolModelState> Deployments::PoolModels() const {
  const std::vector<compute::ModelEntry> entries = engine_.ListModels();
  const auto report = engine_.pool();
  std::map<std::string, compute::ModelResidency> moved;  // by the residency's name
  if (options_.residency != nullptr) {
    for (compute::ModelResidency& model : options_.residency->Snapshot())
      moved[model.name] = std::move(model);
  }
  std::vector<PoolModelState> out;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, deployment] : deployments_) {
    const DeploymentStatus status = StatusOf(deployment.model, entries, report.get());
    PoolModelState state;
    state.id = id;
    state.state = status.state;
    state.load_share = status.load_share;
    if (status.state == DeploymentState::kFailed || status.state == DeploymentState::kQuarantined)
      state.error = status.error;
    state.failures = deployment.failures;
    state.retry_in_s = status.retry_in_s;
    state.engine = status.engine;
    if (status.engine) {
      state.pooled = status.engine->pooled;
      state.waiting = status.engine->waiting;
      state.active = status.engine->running;
      if (!state.pooled) state.bytes.resident = status.engine->weight_bytes;
    }
    if (const auto weights = deployment.weights.lock(); weights != nullptr && status.engine) {
      state.segments = CountSegments(*weights);
      state.bytes = weights->counts();
      if (const auto it = moved.find(weights->name()); it != moved.end()) {
        state.loads = it->second.completed_loads;
        state.failed_loads = it->second.failed_loads;
        state.evictions = it->second.evictions;
        state.load_seconds = it->second.load_seconds;
        state.bytes_from_disk = it->second.cold_bytes_moved;
        state.bytes_from_memory = it->second.warm_bytes_moved;
      }
    }
    if (const auto* replica = FindReplica(report.get(), deployment.ready.handle);
        replica != nullptr && status.engine) {
      state.waiting = replica->waiting;
      state.active = replica->active;
      state.spilled = replica->spilled;
      state.load = replica->load;
      state.failures = std::max(state.failures, replica->load_failures);
      if (replica->waiting + replica->active + replica->spilled > 0) state.slack_s = replica->slack_s;
    }
    state.policy = elasticity_.PolicyOf(id);
    state.pin = elasticity_.pin_source(id);
    if (const auto it = arrivals_.find(id); it != arrivals_.end()) state.arrivals = it->second;
    out.push_back(std::move(state));
  }
  return out;
}

// ---- what stays, and what goes ----------------------------------------------------------------------

compute::ModelPolicy Deployments::PolicyFor(const std::string& id,
                                            const architectures::ModelInfo& info) const {
  compute::ModelPolicy policy = elasticity_.PolicyOf(id);
  policy.profile = GuessProfile(info, options_.roofline);
  return policy;
}

Result<std::string> Deployments::SetPolicy(std::string_view name, const PolicyChange& change) {
  TP_TRY(CheckPolicyChange(change));
  TP_ASSIGN(const StoredModel model, ResolveBase(name));
  elasticity_.Change(model.id, change);
  if (change.pinned.value_or(false)) Register(model.id);
  ApplyPolicies();
  return model.id;
}

void Deployments::AskOfDeployments() {
  elasticity_.SetDeployed(PolicyOfDeployments(options_.deployments->List()));
}

void Deployments::LookAtClock() {
  if (options_.deployments != nullptr) {
    options_.deployments->Refresh();
    AskOfDeployments();
  }
  const std::set<std::string> wanted =
      elasticity_.Evaluate([this](const std::string& name) -> std::optional<std::string> {
        const auto model = ResolveBase(name);
        return model ? std::optional(model->id) : std::nullopt;
      });
  for (const std::string& id : wanted) Register(id);
  ApplyPolicies();
  UnregisterIdle();
  if (!pool_load_failed_) return;
  pool_load_failed_ = false;
  const auto report = engine_.pool();
  const std::lock_guard lock(mutex_);
  for (auto& [id, deployment] : deployments_) {
    if (!deployment.weights_error) continue;
    const auto* replica = FindReplica(report.get(), deployment.ready.handle);
    if (replica != nullptr && replica->load_failures > 0) {
      pool_load_failed_ = true;
    } else {
      deployment.weights_error.reset();
    }
  }
}

// A pinned model that is not loaded yet.
void Deployments::Register(const std::string& id) {
  const auto model = Resolve(id);
  if (!model) return;
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  Deployment& deployment = deployments_[id];
  const bool stored = deployment.state == DeploymentState::kStored;
  if (!stored && (deployment.state != DeploymentState::kFailed || InQuarantine(deployment))) return;
  deployment.model = *model;
  QueueLoad(deployment);
}

void Deployments::ApplyPolicies() {
  std::vector<std::pair<compute::ModelHandle, compute::ModelPolicy>> changed;
  std::vector<compute::ModelHandle> pinned;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, deployment] : deployments_) {
      if (deployment.state != DeploymentState::kReady) continue;
      const compute::ModelPolicy policy = PolicyFor(id, deployment.ready.info);
      if (SamePromises(policy, deployment.policy)) continue;
      if (policy.pinned && !deployment.policy.pinned) pinned.push_back(deployment.ready.handle);
      deployment.policy = policy;
      changed.emplace_back(deployment.ready.handle, policy);
    }
  }
  // A model may be gone meanwhile; its policy waits for its return.
  for (const auto& [handle, policy] : changed) engine_.SetPolicy(handle, policy);
  for (const compute::ModelHandle handle : pinned) engine_.Prefetch(handle);
}

void Deployments::UnregisterIdle() {
  const auto most = static_cast<size_t>(std::max(options_.elasticity.max_registered, 1));
  std::vector<compute::ModelEntry> entries = engine_.ListModels();
  if (entries.size() <= most) return;
  size_t beyond = entries.size() - most;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(entries, [this](const compute::ModelEntry& e) {
      return e.running + e.waiting > 0 || built_in_.contains(e.name) ||
             elasticity_.pin_source(e.name) != PinSource::kNone;
    });
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.last_used < b.last_used; });
  for (const compute::ModelEntry& entry : entries) {
    if (beyond == 0) return;
    if (!engine_.RemoveModel(entry.handle, /*force=*/false)) continue;  // a request has come since
    Forget(entry.name, entry.handle);
    --beyond;
    LogInfo("idle model unregistered", {{"model", entry.name}, {"most", most}});
  }
}

void Deployments::DrainIdle() {
  while (ledger_.over_limit_bytes() > 0 && EvictIdle()) {
  }
}

}  // namespace tidepool::platform
