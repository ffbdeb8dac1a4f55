#include "gateway/native/pool_feed.h"

#include <fmt/format.h>

#include <chrono>
#include <map>

#include "gateway/errors.h"
#include "gateway/sse.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

namespace {

constexpr size_t kMaxWatchers = 64;
constexpr size_t kMostEvents = 1000;  // in one write; the rest a quarter of a second later
constexpr auto kPeriod = std::chrono::milliseconds(250);

Json BudgetJson(const platform::PoolBudget& budget) {
  return {{"limit_bytes", budget.limit}, {"used_bytes", budget.used}, {"over_bytes", budget.over()}};
}

Json CountersJson(const compute::PoolCounters& c) {
  return {{"decisions", c.decisions},
          {"arrivals", c.arrivals},
          {"rejected", c.rejected},
          {"turns", c.turns},
          {"switches", c.switches},
          {"loads", c.loads},
          {"load_failures", c.load_failures},
          {"evictions", c.evictions},
          {"spills", c.spills},
          {"restores", c.restores},
          {"drops", c.drops},
          {"moves", c.moves},
          {"bytes_loaded", c.bytes_loaded},
          {"bytes_spilled", c.bytes_spilled},
          {"bytes_restored", c.bytes_restored}};
}

void AppendNamed(std::string& out, std::string_view name, const Json& data) {
  AppendNamedEvent(out, name, data.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// What a state says beside the time that passes: when it is the same, nothing is sent.
Json WithoutTime(Json state) {
  state["counters"].erase("decisions");
  state["device"].erase("switch_share");
  state["device"].erase("switches_per_s");
  for (Json& model : state["models"]) {
    model.erase("slack_s");
    model.erase("retry_in_s");
  }
  return state;
}

}  // namespace

Json PoolModelJson(const platform::PoolModelState& model) {
  Json out;
  out["id"] = model.id;
  out["state"] = platform::DeploymentStateName(model.state);
  out["load_share"] = model.load_share;
  out["segments"] = {{"resident", model.segments.resident},
                     {"loading", model.segments.loading},
                     {"warm", model.segments.warm},
                     {"cold", model.segments.cold}};
  out["bytes"] = {{"resident", model.bytes.resident},
                  {"loading", model.bytes.loading},
                  {"warm", model.bytes.warm},
                  {"cold", model.bytes.cold}};
  out["pooled"] = model.pooled;
  out["waiting"] = model.waiting;
  out["active"] = model.active;
  out["spilled"] = model.spilled;
  out["slack_s"] = model.slack_s ? Json(*model.slack_s) : Json(nullptr);
  out["load"] = model.load;
  out["pinned"] = model.pin != platform::PinSource::kNone;
  out["pinned_by"] = platform::PinSourceName(model.pin);
  out["idle_ttl_s"] = model.policy.idle_ttl_s;
  out["min_resident_s"] = model.policy.min_resident_s;
  out["ttft_s"] = model.policy.ttft_s;
  out["tpot_s"] = model.policy.tpot_s;
  out["weight"] = model.policy.weight;
  out["arrivals"] = model.arrivals;
  out["loads"] = model.loads;
  out["failed_loads"] = model.failed_loads;
  out["evictions"] = model.evictions;
  out["load_seconds"] = model.load_seconds;
  out["bytes_from_disk"] = model.bytes_from_disk;
  out["bytes_from_memory"] = model.bytes_from_memory;
  if (model.engine) {
    const compute::ModelEntry& entry = *model.engine;
    out["engine"] = {{"weight_bytes", entry.weight_bytes},
                     {"workspace_bytes", entry.workspace_bytes},
                     {"kv_bytes", entry.kv_bytes},
                     {"kv_blocks_used", entry.kv_blocks_used},
                     {"kv_blocks_cached", entry.kv_blocks_cached},
                     {"tokens_on_time", entry.tokens_on_time},
                     {"tokens_late", entry.tokens_late},
                     {"running", entry.running},
                     {"waiting", entry.waiting}};
  }
  if (model.error) {
    out["failures"] = model.failures;
    out["error"] = ErrorJson(*model.error)["error"];
  }
  if (model.state == platform::DeploymentState::kQuarantined) out["retry_in_s"] = model.retry_in_s;
  return out;
}

Json PoolJson(const platform::PoolState& state) {
  Json out;
  out["policy"] = state.policy;
  out["memory"] = BudgetJson(state.memory);
  Json owners = Json::array();
  for (const platform::PoolOwner& owner : state.owners) {
    owners.push_back(
        {{"owner", owner.owner}, {"kind", compute::ChargeKindName(owner.kind)}, {"bytes", owner.bytes}});
  }
  out["memory"]["owners"] = std::move(owners);
  out["warm"] = BudgetJson(state.warm);
  out["host_kv"] = BudgetJson(state.host_kv);
  if (state.packed) {
    out["packed_cache"] = {{"bytes", state.packed->bytes},       {"files", state.packed->files},
                           {"hits", state.packed->hits},         {"misses", state.packed->misses},
                           {"rebuilds", state.packed->rebuilds}, {"evictions", state.packed->evictions}};
  }
  out["load_rates"] = {{"disk_bytes_per_s", state.rates.cold_bytes_per_s},
                       {"memory_bytes_per_s", state.rates.warm_bytes_per_s}};
  out["device"] = {{"arena_bytes", state.device.arena_bytes},
                   {"weight_bytes", state.device.weight_bytes},
                   {"kv_bytes", state.device.kv_bytes},
                   {"cordoned", state.device.cordoned},
                   {"busy", state.device.busy},
                   {"running", state.running_model.empty() ? Json(nullptr) : Json(state.running_model)},
                   {"load", state.device.load},
                   {"switch_share", state.device.switch_share},
                   {"switches_per_s", state.device.switches_per_s},
                   {"kv_moves", state.kv_moves}};
  out["counters"] = CountersJson(state.counters);
  out["tokens"] = {{"computed", state.tokens.computed},
                   {"generated", state.tokens.generated},
                   {"on_time", state.tokens.on_time},
                   {"late", state.tokens.late}};
  out["models"] = Json::array();
  for (const auto& model : state.models) out["models"].push_back(PoolModelJson(model));
  return out;
}

std::string ModelEvents(const platform::PoolState& before, const platform::PoolState& now) {
  std::string out;
  std::map<std::string, const platform::PoolModelState*> known;
  for (const auto& model : before.models) known[model.id] = &model;
  const auto state_event = [&](const std::string& id, std::string_view state,
                               const std::optional<Error>& error) {
    Json data{{"model", id}, {"state", state}};
    if (error) data["error"] = error->message;
    AppendNamed(out, "model", data);
  };
  for (const auto& model : now.models) {
    const auto it = known.find(model.id);
    static const platform::PoolModelState kNew;
    const platform::PoolModelState& old = it == known.end() ? kNew : *it->second;
    if (it == known.end() || old.state != model.state)
      state_event(model.id, platform::DeploymentStateName(model.state), model.error);
    if (it != known.end()) known.erase(it);
  }
  for (const auto& [id, model] : known)
    state_event(id, platform::DeploymentStateName(platform::DeploymentState::kStored), {});
  return out;
}

Json EngineEventJson(const platform::PoolEventList::Entry& entry) {
  const compute::PoolEvent& event = entry.event;
  Json data{{"number", event.number}, {"time", entry.unix_s}};
  if (event.model != nullptr) data["model"] = *event.model;
  if (event.reason != compute::Reason::kNone) data["reason"] = compute::ReasonName(event.reason);
  if (event.bytes > 0) data["bytes"] = event.bytes;
  if (event.seconds > 0) data["seconds"] = event.seconds;
  if (event.model != nullptr) data["resident_segments"] = event.segments;
  return data;
}

std::string EngineEvents(const platform::PoolEventList& list) {
  std::string out;
  if (list.missed > 0) AppendNamed(out, "missed", {{"count", list.missed}});
  for (const auto& entry : list.entries)
    AppendNamed(out, compute::PoolEventKindName(entry.event.kind), EngineEventJson(entry));
  return out;
}

struct PoolFeed::Watcher final : ExchangeListener {
  explicit Watcher(std::shared_ptr<Exchange> stream) : exchange(stream), weak(stream) {}
  void OnClosed() override { closed = true; }
  void OnPressure(bool high) override { slow = high; }
  void OnQuiet() override {
    const auto stream = weak.lock();
    if (stream == nullptr) return;
    std::string text;
    AppendComment(text, "quiet");
    stream->Write(text);
  }

  std::shared_ptr<Exchange> exchange;  // the feed's thread; let go when it is over
  const std::weak_ptr<Exchange> weak;
  std::atomic<bool> closed{false}, slow{false};
  bool fresh = true;   // has not had a state yet
  uint64_t after = 0;  // the last event it was told
};

void PoolFeed::Add(std::shared_ptr<Exchange> exchange) {
  const auto watcher = std::make_shared<Watcher>(exchange);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || draining_)
      return exchange->Send(ErrorResponse(503, "draining", "The server is stopping; try again later."));
    if (watchers_.size() >= kMaxWatchers) {
      return exchange->Send(ErrorResponse(Error{
          ErrorKind::kOverloaded, "too_many_watchers",
          fmt::format("{} clients watch the pool already; close one, or ask GET /api/v1/pool.", kMaxWatchers),
          "", 10}));
    }
    exchange->Begin(200, kEventStream, {{"Cache-Control", "no-store"}});
    watchers_.push_back(watcher);
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  exchange->Listen(watcher);
  wake_.notify_one();
}

void PoolFeed::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void PoolFeed::Run() {
  platform::PoolState last;
  Json last_shown;
  std::unique_lock lock(mutex_);
  while (!stopping_ && !draining_) {
    if (watchers_.empty()) {
      wake_.wait(lock, [this] { return stopping_ || !watchers_.empty(); });
      last_shown = nullptr;
      continue;
    }
    std::erase_if(watchers_, [](const auto& watcher) { return watcher->closed.load(); });
    const auto watchers = watchers_;
    lock.unlock();
    const platform::PoolState state = inference_.pool()->State();
    const Json json = PoolJson(state);
    const Json shown = WithoutTime(json);
    std::string text;
    AppendNamed(text, "state", json);
    const bool changed = shown != last_shown;
    const std::string models = last_shown.is_null() ? std::string() : ModelEvents(last, state);
    std::string events;  // after `told`: watchers that keep up share one text
    uint64_t told = UINT64_MAX, last_event = 0;
    for (const auto& watcher : watchers) {
      if (watcher->slow) continue;
      if (watcher->fresh) {
        watcher->after = inference_.pool()->Events(UINT64_MAX, 0).last;
        watcher->fresh = false;
        watcher->exchange->Write(text);
        continue;
      }
      if (watcher->after != told) {
        const platform::PoolEventList list = inference_.pool()->Events(watcher->after, kMostEvents);
        events = EngineEvents(list);
        told = watcher->after;
        last_event = list.entries.empty() ? watcher->after : list.entries.back().event.number;
      }
      watcher->after = last_event;
      const std::string said = events + models + (changed ? text : std::string());
      if (!said.empty()) watcher->exchange->Write(said);
    }
    last = state;
    last_shown = shown;
    lock.lock();
    wake_.wait_for(lock, kPeriod, [this] { return stopping_; });
  }
  for (const auto& watcher : watchers_) watcher->exchange->End();
  watchers_.clear();
}

}  // namespace tidepool::gateway::native
