#include "platform/inference/elasticity.h"

#include <fmt/format.h>

#include <cmath>

#include "base/clock.h"
#include "base/log.h"

namespace tidepool::platform {
namespace {

Status CheckRange(const std::optional<double>& value, const char* name, double low, bool low_open,
                  double high, std::string_view also = {}) {
  if (!value) return {};
  const bool above = low_open ? *value > low : *value >= low;
  if (std::isfinite(*value) && above && *value <= high) return {};
  return Fail(ErrorKind::kInvalid, "invalid_value",
              fmt::format("{} is {}; it must be {} {} and at most {}{}", name, *value,
                          low_open ? "above" : "at least", low, high, also),
              name);
}

}  // namespace

Status CheckPolicyChange(const PolicyChange& change) {
  if (!change.pinned && !change.idle_ttl_s && !change.min_resident_s && !change.ttft_s && !change.tpot_s &&
      !change.weight) {
    return Fail(ErrorKind::kInvalid, "missing_field",
                "nothing to change; give one of pinned, idle_ttl_s, min_resident_s, ttft_s, tpot_s, weight");
  }
  if (change.idle_ttl_s && *change.idle_ttl_s != -1) {
    TP_TRY(CheckRange(change.idle_ttl_s, "idle_ttl_s", 0, false, 31536000, ", or -1 for never"));
  }
  TP_TRY(CheckRange(change.min_resident_s, "min_resident_s", 0, false, 86400));
  TP_TRY(CheckRange(change.ttft_s, "ttft_s", 0, true, 86400));
  TP_TRY(CheckRange(change.tpot_s, "tpot_s", 0, true, 3600));
  return CheckRange(change.weight, "weight", 0.001, false, 1000);
}

std::string_view PinSourceName(PinSource source) {
  switch (source) {
    case PinSource::kNone: return "none";
    case PinSource::kSettings: return "settings";
    case PinSource::kSchedule: return "schedule";
    case PinSource::kDeployment: return "deployment";
    case PinSource::kOperator: return "operator";
  }
  return "none";
}

Elasticity::Elasticity(const compute::ModelPolicy& defaults, ElasticityOptions options)
    : defaults_(defaults), options_(std::move(options)) {}

// Under the mutex.
PinSource Elasticity::PinSourceLocked(const std::string& id) const {
  if (const auto it = changes_.find(id); it != changes_.end() && it->second.pinned)
    return *it->second.pinned ? PinSource::kOperator : PinSource::kNone;
  if (const auto it = deployed_.find(id); it != deployed_.end() && it->second.pinned.value_or(false))
    return PinSource::kDeployment;
  if (settings_pins_.contains(id)) return PinSource::kSettings;
  return window_pins_.contains(id) ? PinSource::kSchedule : PinSource::kNone;
}

PinSource Elasticity::pin_source(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  return PinSourceLocked(id);
}

compute::ModelPolicy Elasticity::PolicyOf(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  compute::ModelPolicy policy = defaults_;
  for (const auto* changes : {&deployed_, &changes_}) {
    const auto it = changes->find(id);
    if (it == changes->end()) continue;
    const PolicyChange& change = it->second;
    policy.idle_ttl_s = change.idle_ttl_s.value_or(policy.idle_ttl_s);
    policy.min_resident_s = change.min_resident_s.value_or(policy.min_resident_s);
    policy.ttft_s = change.ttft_s.value_or(policy.ttft_s);
    policy.tpot_s = change.tpot_s.value_or(policy.tpot_s);
    policy.weight = change.weight.value_or(policy.weight);
  }
  policy.pinned = PinSourceLocked(id) != PinSource::kNone;
  return policy;
}

void Elasticity::Change(const std::string& id, const PolicyChange& change) {
  const std::lock_guard lock(mutex_);
  PolicyChange& kept = changes_[id];
  const auto take = [](auto& to, const auto& from) {
    if (from) to = from;
  };
  take(kept.pinned, change.pinned);
  take(kept.idle_ttl_s, change.idle_ttl_s);
  take(kept.min_resident_s, change.min_resident_s);
  take(kept.ttft_s, change.ttft_s);
  take(kept.tpot_s, change.tpot_s);
  take(kept.weight, change.weight);
}

void Elasticity::Forget(const std::string& id) {
  const std::lock_guard lock(mutex_);
  changes_.erase(id);
}

void Elasticity::SetDeployed(std::map<std::string, PolicyChange> deployed) {
  const std::lock_guard lock(mutex_);
  const PolicyChange nothing;
  for (const auto& [id, now] : deployed) {
    const auto changed = changes_.find(id);
    if (changed == changes_.end()) continue;
    const auto it = deployed_.find(id);
    const PolicyChange& before = it == deployed_.end() ? nothing : it->second;
    const auto outdate = [](auto& word, const auto& was, const auto& is) {
      if (is && is != was) word.reset();
    };
    PolicyChange& word = changed->second;
    outdate(word.pinned, before.pinned, now.pinned);
    outdate(word.idle_ttl_s, before.idle_ttl_s, now.idle_ttl_s);
    outdate(word.min_resident_s, before.min_resident_s, now.min_resident_s);
    outdate(word.ttft_s, before.ttft_s, now.ttft_s);
    outdate(word.tpot_s, before.tpot_s, now.tpot_s);
    outdate(word.weight, before.weight, now.weight);
  }
  deployed_ = std::move(deployed);
}

std::set<std::string> Elasticity::Evaluate(
    const std::function<std::optional<std::string>(const std::string&)>& resolve) {
  const int64_t now = options_.unix_time ? options_.unix_time() : UnixTimeSeconds();
  std::set<std::string> unknown;
  const auto ids_of = [&](const auto& names) {
    std::set<std::string> ids;
    for (const std::string& name : names) {
      if (auto id = resolve(name)) {
        ids.insert(std::move(*id));
      } else {
        unknown.insert(name);
      }
    }
    return ids;
  };
  std::set<std::string> from_settings = ids_of(options_.pins);
  std::set<std::string> from_windows = ids_of(WantedPins(options_.schedule, LocalWallTime(now)));
  const std::lock_guard lock(mutex_);
  for (const std::string& name : unknown) {
    if (!unknown_.contains(name))
      LogWarn("a model to be pinned is not in the store; pull it", {{"model", name}});
  }
  unknown_ = std::move(unknown);
  settings_pins_ = std::move(from_settings);
  window_pins_ = std::move(from_windows);
  std::set<std::string> wanted;
  for (const auto* ids : {&settings_pins_, &window_pins_}) {
    for (const std::string& id : *ids) {
      if (PinSourceLocked(id) != PinSource::kNone) wanted.insert(id);
    }
  }
  for (const auto* changes : {&deployed_, &changes_}) {
    for (const auto& [id, change] : *changes) {
      if (change.pinned.value_or(false) && PinSourceLocked(id) != PinSource::kNone) wanted.insert(id);
    }
  }
  return wanted;
}

}  // namespace tidepool::platform
