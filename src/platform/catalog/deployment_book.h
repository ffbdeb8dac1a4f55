// Deployments: names that clients call, each of a stored model with defaults, limits and a place in the pool.
//
// Rows of the server's store, and a copy in memory that requests read. Whether there is such a model, and
// whether it fits, is platform/inference's to know (Inference::CheckDeployment): ask there before a change.
//
// Threads: any. Find and List never block; changes wait for the store.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "compute/scheduler/pool_scheduler.h"
#include "platform/accounts/audit.h"
#include "platform/store/database.h"

namespace tidepool::platform {

// What a request takes where it is silent; what this does not say is the model's own.
struct DeploymentDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, max_tokens, reasoning_budget;
  std::vector<std::string> stop;
  std::optional<bool> thinking;  // the template's enable_thinking
  std::optional<compute::JobClass> priority;
};

struct DeploymentSpec {
  std::string name;           // what clients call
  std::string base;           // the stored model's id
  std::string description;    // for people
  std::string chat_template;  // Jinja; empty: the model's own
  std::string system_prompt;  // of conversations that begin without one
  DeploymentDefaults defaults;
  int32_t max_context_tokens = 0;  // of prompt and answer together; 0: the model's
  int32_t max_output_tokens = 0;   // longer answers end there ("length"); 0: the context
  // The base model's place in the pool. Where several deployments have one base, the one that asks for more
  // counts: pinned, the longer time, the earlier deadline, the larger weight.
  bool pinned = false;
  std::optional<double> idle_ttl_s, min_resident_s, ttft_s, tpot_s, weight;
  int64_t created_ms = 0, updated_ms = 0;
  std::string created_by;  // a member's or key's id
};

// Who called a deployment, newest first; the last kMaxDeploymentCallers of them.
struct DeploymentCaller {
  std::string organisation, workspace, member, key;
  int64_t requests = 0;
  int64_t last_ms = 0;
};
inline constexpr size_t kMaxDeploymentCallers = 16;

struct DeploymentPage {
  std::vector<std::shared_ptr<const DeploymentSpec>> deployments;  // by name
  std::string next;                                                // cursor; empty: no more
};

class DeploymentBook {
 public:
  // All arguments outlive it; the store is migrated. `audit` may be null (tests).
  static Result<std::unique_ptr<DeploymentBook>> Open(store::Database& database, Audit* audit,
                                                      const WallClock& wall_clock, MetricsRegistry& metrics,
                                                      int64_t max_deployments = 1000);
  static store::MigrationList Migrations();
  ~DeploymentBook();  // writes down who called
  DeploymentBook(const DeploymentBook&) = delete;
  DeploymentBook& operator=(const DeploymentBook&) = delete;

  // By its whole name; null: there is none.
  std::shared_ptr<const DeploymentSpec> Find(std::string_view name) const;
  std::vector<std::shared_ptr<const DeploymentSpec>> List() const;  // by name
  DeploymentPage List(std::string_view after, int64_t limit) const;
  std::vector<std::string> NamesOf(std::string_view base) const;

  // Errors: kConflict "exists", kNotFound "deployment_not_found", kTooLarge "too_many_deployments", kInvalid
  // with the field. Each with its row in the audit log.
  Result<DeploymentSpec> Create(const AuditActor& actor, DeploymentSpec spec);
  // `change` edits what the store has, name and times apart.
  Result<DeploymentSpec> Change(const AuditActor& actor, const std::string& name,
                                const std::function<Status(DeploymentSpec&)>& change);
  Result<DeploymentSpec> Delete(const AuditActor& actor, const std::string& name);

  void NoteUse(const std::string& name, const DeploymentCaller& who);
  std::vector<DeploymentCaller> CallersOf(const std::string& name) const;

  // After a change, on its thread. One listener; nullptr: none.
  void OnChange(std::function<void()> changed);
  // Now and then: writes down who called, and reads what other servers of the same store have changed.
  void Refresh();

 private:
  DeploymentBook(store::Database& database, Audit* audit, const WallClock& wall_clock,
                 MetricsRegistry& metrics, int64_t max_deployments);
  Status Read();
  void FlushUses(bool wait);
  void Changed();

  store::Database& database_;
  Audit* const audit_;
  const WallClock& wall_clock_;
  const int64_t max_deployments_;
  Gauge count_;

  struct Uses {
    std::vector<DeploymentCaller> callers;
    bool dirty = false;
  };
  using Specs = std::map<std::string, std::shared_ptr<const DeploymentSpec>, std::less<>>;
  mutable std::mutex mutex_;
  std::shared_ptr<const Specs> specs_;
  std::map<std::string, Uses> uses_;
  std::mutex changed_mutex_;
  std::function<void()> changed_;
};

// A name: 1 to 128 of letters, digits and . _ - : / , the first a letter or a digit.
Status CheckDeploymentName(std::string_view name);
// Ranges of everything else; errors name the field.
Status CheckDeploymentSpec(const DeploymentSpec& spec);
// As the store, the audit log and the API show it, without times; the reverse takes what is missing as unset.
nlohmann::ordered_json DeploymentSpecJson(const DeploymentSpec& spec);
DeploymentSpec DeploymentSpecOf(const nlohmann::ordered_json& json);

}  // namespace tidepool::platform
