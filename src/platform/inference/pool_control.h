// The pool as its operator sees and steers it: what is where, what each model may expect, budgets while
// running. What the gateway's /api/v1/pool and the command line show.
//
// Threads: any; State waits for the engine's turn (a step, at most a quarter of a second), the others too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "compute/engine/engine.h"
#include "compute/residency/packed_cache.h"
#include "compute/residency/residency.h"
#include "platform/inference/elasticity.h"
#include "platform/inference/inference.h"

namespace tidepool::platform {

struct PoolBudget {
  uint64_t limit = 0, used = 0;
  uint64_t over() const { return used > limit ? used - limit : 0; }
};

struct SegmentCounts {  // a model's weights in the order a step needs them: embedding, layers, head
  int32_t resident = 0, loading = 0, warm = 0, cold = 0;
};

struct PoolModelState {
  std::string id;
  DeploymentState state = DeploymentState::kStored;
  double load_share = 0;       // kLoading
  std::optional<Error> error;  // of the last load, until one succeeds
  int32_t failures = 0;        // in a row
  double retry_in_s = 0;       // kQuarantined: when it is tried again
  std::optional<compute::ModelEntry> engine;
  bool pooled = false;             // its weights come and go; else they stay
  SegmentCounts segments;          // all 0: no segments
  compute::ResidencyCounts bytes;  // of weights
  int32_t waiting = 0, active = 0, spilled = 0;
  std::optional<double> slack_s;  // until the next token is due, of its most urgent request
  double load = 0;                // share of the device its requests need to keep their pace
  compute::ModelPolicy policy;
  PinSource pin = PinSource::kNone;
  uint64_t arrivals = 0;  // requests since the start
  uint64_t loads = 0, failed_loads = 0, evictions = 0;
  double load_seconds = 0;
  uint64_t bytes_from_disk = 0, bytes_from_memory = 0;
};

struct PoolOwner {
  std::string owner;
  compute::ChargeKind kind = compute::ChargeKind::kWeights;
  uint64_t bytes = 0;
};

struct PoolState {
  std::string policy;                // of the scheduler
  PoolBudget memory, warm, host_kv;  // a limit of 0: none
  std::vector<PoolOwner> owners;     // of memory
  std::optional<compute::PackedCacheStats> packed;
  compute::LoadRates rates;
  compute::DeviceState device;  // without replicas
  std::string running_model;    // whose step is computed
  int32_t kv_moves = 0;
  compute::PoolCounters counters;
  compute::PoolTokens tokens;
  std::vector<PoolModelState> models;  // registered, loading, failed; by id
};

// What the pool did (compute/engine/pool_events.h), with the time of day.
struct PoolEventList {
  struct Entry {
    double unix_s = 0;
    compute::PoolEvent event;
  };
  std::vector<Entry> entries;  // oldest first
  uint64_t missed = 0;         // gone before they were asked for
  uint64_t last = 0;           // number of the newest there is
};

// What was computed when (compute/engine/turn_log.h), with the time of day.
struct PoolTurnList {
  struct Entry {
    double from_s = 0, to_s = 0;  // Unix time
    compute::PoolTurn turn;
  };
  std::vector<Entry> entries;  // oldest first
  uint64_t missed = 0;         // gone before they were asked for
  uint64_t last = 0;           // number of the newest there is
};

struct PoolResize {
  std::optional<uint64_t> memory = {}, warm_memory = {}, host_kv = {};
};

class PoolControl {
 public:
  virtual ~PoolControl() = default;
  virtual PoolState State() const = 0;
  // Budgets while running, until the next start. Below what is used: nothing is killed, nothing new is taken
  // until the rest has drained. Errors name the field: less than kLeastPoolBytes, or no such budget here.
  virtual Status Resize(const PoolResize& resize) = 0;
  // The stored model a name means, with its new policy. A model that is pinned is loaded.
  virtual Result<PoolModelState> SetPolicy(const std::string& model, const PolicyChange& change) = 0;
  virtual void SetCordoned(bool cordoned) = 0;
  // What came after event `after`, at most `most`.
  virtual PoolEventList Events(uint64_t after, size_t most) const = 0;
  virtual PoolTurnList Turns(uint64_t after, size_t most) const = 0;
  // Engine::DecisionTrace; kNotFound when none is kept.
  virtual Result<std::string> Trace(bool requests) const = 0;
  // Copies the state to the metrics tidepool_pool_* and those of residency: before they are read.
  virtual void UpdateMetrics() = 0;
};

inline constexpr uint64_t kLeastPoolBytes = 16u << 20;

}  // namespace tidepool::platform
