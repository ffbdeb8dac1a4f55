#include "platform/inference/deployed_pool.h"

#include <fmt/format.h>

#include <chrono>

#include "base/log.h"

namespace tidepool::platform {
namespace {

constexpr std::array<const char*, 11> kEventNames = {"arrival",      "rejected", "switch", "load",
                                                     "load_failure", "eviction", "spill",  "restore",
                                                     "drop",         "move",     "turn"};
std::array<uint64_t, 11> EventsOf(const compute::PoolCounters& c) {
  return {c.arrivals, c.rejected, c.switches, c.loads, c.load_failures, c.evictions,
          c.spills,   c.restores, c.drops,    c.moves, c.turns};
}
constexpr std::array<const char*, 3> kMovedNames = {"loaded", "spilled", "restored"};
std::array<uint64_t, 3> MovedOf(const compute::PoolCounters& c) {
  return {c.bytes_loaded, c.bytes_spilled, c.bytes_restored};
}

Status CheckBudget(const std::optional<uint64_t>& bytes, const char* name, uint64_t least, uint64_t most,
                   bool exists) {
  if (!bytes) return {};
  if (!exists) {
    return Fail(ErrorKind::kInvalid, "no_such_budget",
                fmt::format("this server has no budget {}: it was started without one", name), name);
  }
  if (*bytes < least) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("{} is {} bytes; it must be at least {} MiB", name, *bytes, least >> 20), name);
  }
  if (most > 0 && *bytes > most) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("{} is {} bytes; the machine has {}", name, *bytes, most), name);
  }
  return {};
}

}  // namespace

DeployedPool::DeployedPool(Deployments& deployments, compute::Engine& engine, compute::Ledger& ledger,
                           const Clock& clock, MetricsRegistry& metrics, const InferenceOptions& options,
                           uint64_t machine_bytes)
    : deployments_(deployments),
      engine_(engine),
      ledger_(ledger),
      clock_(clock),
      registry_(metrics),
      options_(options),
      machine_bytes_(machine_bytes) {
  over_ = metrics.gauge("tidepool_pool_over_limit_bytes", "Bytes above a limit that was lowered");
  host_kv_used_ = metrics.gauge("tidepool_pool_host_kv_used_bytes", "KV of requests that had to make way");
  host_kv_limit_ = metrics.gauge("tidepool_pool_host_kv_limit_bytes", "Budget for such KV");
  load_ =
      metrics.gauge("tidepool_pool_load", "Share of the device that all requests need to keep their pace");
  switch_share_ = metrics.gauge("tidepool_pool_switch_share",
                                "Share of the device's time that waited for weights with work at hand");
  cordoned_ = metrics.gauge("tidepool_pool_cordoned", "1: no new work begins");
  for (size_t i = 0; i < events_.size(); ++i) {
    events_[i] =
        metrics.counter("tidepool_pool_events_total", "What the pool decided", {{"event", kEventNames[i]}});
  }
  for (size_t i = 0; i < bytes_moved_.size(); ++i) {
    bytes_moved_[i] = metrics.counter("tidepool_pool_bytes_moved_total", "Bytes of weights and KV that moved",
                                      {{"what", kMovedNames[i]}});
  }
  if (options_.residency != nullptr)
    residency_metrics_ =
        std::make_unique<compute::ResidencyMetrics>(*options_.residency, metrics, options_.packed);
}

PoolState DeployedPool::State() const {
  PoolState state;
  state.models = deployments_.PoolModels();
  const auto report = engine_.pool();  // as fresh as the models', or fresher
  state.policy = report->policy;
  uint64_t used = 0;  // of one moment: charges change on other threads
  for (const auto& [key, bytes] : ledger_.Snapshot()) {
    if (bytes > 0) state.owners.push_back({key.first, key.second, bytes});
    used += bytes;
  }
  state.memory = {ledger_.limit(), used};
  if (options_.residency != nullptr) {
    state.warm = {options_.residency->warm_limit(), options_.residency->warm_used()};
    state.rates = options_.residency->rates();
  }
  if (options_.host_kv != nullptr) {
    const compute::HostKvArenaStats stats = options_.host_kv->stats();
    state.host_kv = {stats.limit_bytes, stats.bytes};
  }
  if (options_.packed != nullptr) state.packed = options_.packed->stats();
  state.device = report->device;
  state.device.replicas.clear();
  for (const auto& [handle, name] : report->names) {
    if (handle == report->device.running) state.running_model = name;
  }
  state.kv_moves = report->moves;
  state.counters = report->counters;
  state.tokens = report->tokens;
  return state;
}

Status DeployedPool::Resize(const PoolResize& resize) {
  if (!resize.memory && !resize.warm_memory && !resize.host_kv) {
    return Fail(ErrorKind::kInvalid, "missing_field",
                "nothing to resize; give one of memory, warm_memory, host_kv");
  }
  TP_TRY(CheckBudget(resize.memory, "memory", kLeastPoolBytes, machine_bytes_, true));
  TP_TRY(CheckBudget(resize.warm_memory, "warm_memory", 0, machine_bytes_, options_.residency != nullptr));
  TP_TRY(CheckBudget(resize.host_kv, "host_kv", 0, machine_bytes_, options_.host_kv != nullptr));
  const std::lock_guard lock(resize_mutex_);
  if (resize.memory && *resize.memory >= ledger_.limit()) {
    ledger_.SetLimit(*resize.memory);
  } else if (resize.memory) {
    // The limit first: what comes in meanwhile is judged by it.
    const uint64_t before = ledger_.limit();
    ledger_.SetLimit(*resize.memory);
    if (const uint64_t least = engine_.LeastBytes(); least > *resize.memory) {
      ledger_.SetLimit(before);
      engine_.LimitsChanged();
      return Fail(ErrorKind::kConflict, "pool_in_use",
                  fmt::format("memory is {} bytes; a request that runs or waits needs {} to end (its model's "
                              "weights, its KV and workspace): give at least that, or try again when it has "
                              "ended (GET /api/v1/pool shows what runs)",
                              *resize.memory, least),
                  "memory");
    }
  }
  if (resize.warm_memory) options_.residency->SetWarmLimit(*resize.warm_memory);
  if (resize.host_kv) options_.host_kv->SetLimit(*resize.host_kv);
  engine_.LimitsChanged();
  deployments_.DrainIdle();
  LogInfo("pool resized", {{"memory", ledger_.limit()}, {"over", ledger_.over_limit_bytes()}});
  return {};
}

Result<PoolModelState> DeployedPool::SetPolicy(const std::string& model, const PolicyChange& change) {
  TP_ASSIGN(const std::string id, deployments_.SetPolicy(model, change));
  for (PoolModelState& state : deployments_.PoolModels()) {
    if (state.id == id) return std::move(state);
  }
  PoolModelState stored;
  stored.id = id;
  stored.policy = deployments_.PolicyOf(id);
  stored.pin = stored.policy.pinned ? PinSource::kOperator : PinSource::kNone;
  return stored;
}

// From the engine's clock to the time of day.
double DeployedPool::UnixOffset() const {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count() -
         static_cast<double>(clock_.now()) * 1e-9;
}

PoolEventList DeployedPool::Events(uint64_t after, size_t most) const {
  compute::PoolEvents found = engine_.Events(after, most);
  const double offset_s = UnixOffset();
  PoolEventList list{.entries = {}, .missed = found.missed, .last = found.last};
  for (compute::PoolEvent& event : found.events) {
    list.entries.push_back(
        {.unix_s = offset_s + static_cast<double>(event.at) * 1e-9, .event = std::move(event)});
  }
  return list;
}

PoolTurnList DeployedPool::Turns(uint64_t after, size_t most) const {
  compute::PoolTurns found = engine_.Turns(after, most);
  const double offset_s = UnixOffset();
  PoolTurnList list{.entries = {}, .missed = found.missed, .last = found.last};
  for (compute::PoolTurn& turn : found.turns) {
    list.entries.push_back({.from_s = offset_s + static_cast<double>(turn.from) * 1e-9,
                            .to_s = offset_s + static_cast<double>(turn.to) * 1e-9,
                            .turn = std::move(turn)});
  }
  return list;
}

Result<std::string> DeployedPool::Trace(bool requests) const {
  if (!options_.traced) {
    return Fail(
        ErrorKind::kNotFound, "no_trace",
        "this server records no decisions; set pool.trace_records (docs/settings.md) and start it again");
  }
  return engine_.DecisionTrace(requests);
}

DeployedPool::ModelSeries& DeployedPool::SeriesOf(const std::string& model) {
  const auto [it, added] = models_.try_emplace(model);
  if (!added) return it->second;
  ModelSeries& series = it->second;
  constexpr std::array<const char*, 4> kStates = {"cold", "warm", "loading", "resident"};
  for (size_t i = 0; i < kStates.size(); ++i) {
    series.segments[i] = registry_.gauge("tidepool_pool_segments", "Segments of weights by where they are",
                                         {{"model", model}, {"state", kStates[i]}});
  }
  constexpr std::array<const char*, 3> kRequests = {"waiting", "active", "spilled"};
  for (size_t i = 0; i < kRequests.size(); ++i) {
    series.requests[i] = registry_.gauge("tidepool_pool_requests", "Requests by where their KV is",
                                         {{"model", model}, {"state", kRequests[i]}});
  }
  series.slack =
      registry_.gauge("tidepool_pool_slack_seconds",
                      "Time until the next token of the most urgent request is due", {{"model", model}});
  series.pinned = registry_.gauge("tidepool_pool_pinned", "1: kept resident", {{"model", model}});
  series.quarantined =
      registry_.gauge("tidepool_pool_quarantined", "1: its loads failed, and it is left alone for a while",
                      {{"model", model}});
  return series;
}

void DeployedPool::UpdateMetrics() {
  const PoolState state = State();
  const std::lock_guard lock(metrics_mutex_);
  if (residency_metrics_) residency_metrics_->Update();
  over_.Set(static_cast<double>(state.memory.over()));
  host_kv_used_.Set(static_cast<double>(state.host_kv.used));
  host_kv_limit_.Set(static_cast<double>(state.host_kv.limit));
  load_.Set(state.device.load);
  switch_share_.Set(state.device.switch_share);
  cordoned_.Set(state.device.cordoned ? 1 : 0);
  // Two readers at once may come with looks in the wrong order: then the later one has counted already.
  const auto count = [](auto& counters, const auto& now, const auto& before) {
    for (size_t i = 0; i < counters.size(); ++i)
      counters[i].Increment(static_cast<double>(now[i] - before[i]));
  };
  if (state.counters.decisions >= last_.decisions) {
    count(events_, EventsOf(state.counters), EventsOf(last_));
    count(bytes_moved_, MovedOf(state.counters), MovedOf(last_));
    last_ = state.counters;
  }
  std::map<std::string, const PoolModelState*> present;
  for (const PoolModelState& model : state.models) {
    SeriesOf(model.id);
    present[model.id] = &model;
  }
  static const PoolModelState kGone;
  for (auto& [id, series] : models_) {
    const auto it = present.find(id);
    const PoolModelState& model = it == present.end() ? kGone : *it->second;
    const SegmentCounts& segments = model.segments;
    const std::array<int32_t, 4> counts = {segments.cold, segments.warm, segments.loading, segments.resident};
    for (size_t i = 0; i < counts.size(); ++i) series.segments[i].Set(counts[i]);
    const std::array<int32_t, 3> requests = {model.waiting, model.active, model.spilled};
    for (size_t i = 0; i < requests.size(); ++i) series.requests[i].Set(requests[i]);
    series.slack.Set(model.slack_s.value_or(0));
    series.pinned.Set(model.pin == PinSource::kNone ? 0 : 1);
    series.quarantined.Set(model.state == DeploymentState::kQuarantined ? 1 : 0);
  }
}

}  // namespace tidepool::platform
