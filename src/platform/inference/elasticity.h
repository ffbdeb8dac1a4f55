// What each model is promised and whether it is kept in memory: the defaults, pins of the settings, windows
// of the clock, deployments (kept in the store), and what an operator has said since the start (which lasts
// until the next one).
//
// Of an operator's word and a deployment's the later counts (at the start there are only deployments); both
// beat a window or a pin of the settings, and these the default. Changes are kept by
// the stored model's id, so they outlive its weights.
//
// Threads: any (one mutex).
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/engine/engine.h"
#include "platform/inference/schedule.h"

namespace tidepool::platform {

struct ElasticityOptions {
  std::vector<std::string> pins;       // names of models: kept resident
  std::vector<ScheduleRule> schedule;  // and these at their times
  // Idle models beyond so many are unregistered (tokenizer, tables), the least recently used first.
  int32_t max_registered = 64;
  double period_s = 30;                     // between two looks at the clock
  std::function<int64_t()> unix_time = {};  // empty: the system's
};

// What is set replaces what was; the rest stays.
struct PolicyChange {
  std::optional<bool> pinned = {};
  std::optional<double> idle_ttl_s = {}, min_resident_s = {}, ttft_s = {}, tpot_s = {}, weight = {};
};
// Ranges: ttft_s (0, 86400], tpot_s (0, 3600], weight [0.001, 1000], idle_ttl_s -1 or [0, 31536000],
// min_resident_s [0, 86400]; something must be set. Errors name the field.
Status CheckPolicyChange(const PolicyChange& change);

enum class PinSource : uint8_t { kNone, kSettings, kSchedule, kDeployment, kOperator };
std::string_view PinSourceName(PinSource source);

class Elasticity {
 public:
  Elasticity(const compute::ModelPolicy& defaults, ElasticityOptions options);

  // Without a step profile.
  compute::ModelPolicy PolicyOf(const std::string& id) const;
  PinSource pin_source(const std::string& id) const;  // why it is pinned; kNone: it is not
  void Change(const std::string& id, const PolicyChange& change);
  void Forget(const std::string& id);  // the model has left the store
  // What deployments ask for their base models, by id: all of it, in place of what they asked before.
  void SetDeployed(std::map<std::string, PolicyChange> deployed);

  // Looks at the clock. `resolve` gives the stored id of a name, or nothing. Returns the ids that are to be
  // resident now.
  std::set<std::string> Evaluate(
      const std::function<std::optional<std::string>(const std::string&)>& resolve);

  const ElasticityOptions& options() const { return options_; }

 private:
  PinSource PinSourceLocked(const std::string& id) const;

  const compute::ModelPolicy defaults_;
  const ElasticityOptions options_;
  mutable std::mutex mutex_;
  std::set<std::string> settings_pins_, window_pins_;  // ids, of the last look
  std::map<std::string, PolicyChange> changes_, deployed_;
  std::set<std::string> unknown_;  // names that were reported
};

}  // namespace tidepool::platform
