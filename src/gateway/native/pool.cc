// The pool: its state, its budgets, what each model may expect.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "gateway/action_note.h"
#include "gateway/errors.h"
#include "gateway/native/export.h"
#include "gateway/native/fields.h"
#include "gateway/native/handlers.h"
#include "gateway/native/pool_feed.h"
#include "gateway/openai/fields.h"
#include "gateway/router.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

Json PoolModelJson(const platform::PoolModelState& model);  // pool_feed.cc

namespace {

using openai::BadField;

platform::PoolControl* PoolOf(Services& services, const std::shared_ptr<Exchange>& exchange) {
  platform::PoolControl* pool = services.inference.pool();
  if (pool == nullptr) exchange->Send(ErrorResponse(501, "not_available", "This server has no pool."));
  return pool;
}

// Bytes, or text that the server's settings would take: "8GiB", "60%".
Status ReadBytes(const Services& services, const Json& body, const char* name, std::optional<uint64_t>& out) {
  const auto it = body.find(name);
  if (it == body.end() || it->is_null()) return {};
  if (it->is_number_unsigned()) {
    out = it->get<uint64_t>();
    return {};
  }
  const bool text = it->is_string() && services.hooks.memory_bytes != nullptr;
  if (!text) {
    return Fail(BadField(
        name, fmt::format("{}: {} is no size; give bytes, \"8GiB\" or \"60%\".", name, openai::Shown(*it))));
  }
  const auto bytes = services.hooks.memory_bytes(it->get<std::string>());
  if (!bytes) return Fail(BadField(name, fmt::format("{}: {}.", name, bytes.error().message)));
  out = *bytes;
  return {};
}

// What is promised to a model, for the audit log; null: it has no policy of its own yet.
Json PolicyNote(const platform::PoolModelState& model) {
  return {{"model", model.id},
          {"pinned", model.pin != platform::PinSource::kNone},
          {"pinned_by", platform::PinSourceName(model.pin)},
          {"idle_ttl_s", model.policy.idle_ttl_s},
          {"min_resident_s", model.policy.min_resident_s},
          {"ttft_s", model.policy.ttft_s},
          {"tpot_s", model.policy.tpot_s},
          {"weight", model.policy.weight}};
}
Json PolicyNote(const Services& services, const platform::PoolState& state, const std::string& name) {
  const auto found = services.inference.Find(name);
  if (!found) return nullptr;
  for (const auto& model : state.models) {
    if (model.id == found->id) return PolicyNote(model);
  }
  return nullptr;
}
Json BudgetsNote(const platform::PoolState& state) {
  return {
      {"memory", state.memory.limit}, {"warm_memory", state.warm.limit}, {"host_kv", state.host_kv.limit}};
}

}  // namespace

void Pool(Services& services, std::shared_ptr<Exchange> exchange) {
  if (auto* pool = PoolOf(services, exchange)) exchange->Send(JsonResponse(PoolJson(pool->State())));
}

void PoolEventStream(Services& services, std::shared_ptr<Exchange> exchange) {
  if (PoolOf(services, exchange) != nullptr) services.pool_feed.Add(std::move(exchange));
}

namespace {

constexpr uint64_t kMostHistory = 20'000;  // turns, and events, of one answer: some megabytes

struct HistoryQuery {
  uint64_t turns_after = 0, events_after = 0, limit = kMostHistory;
};

Result<HistoryQuery> ReadHistoryQuery(const HttpRequest& request) {
  TP_ASSIGN(const auto values, ParseQuery(request.target, request.route->query));
  HistoryQuery query;
  for (const auto& [name, text] : values) {
    uint64_t& value = name == "turns_after"    ? query.turns_after
                      : name == "events_after" ? query.events_after
                                               : query.limit;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size())
      return Fail(BadField(name, fmt::format("{} must be a whole number from 0.", name)));
  }
  if (query.limit < 1 || query.limit > kMostHistory)
    return Fail(BadField("limit", fmt::format("limit must be 1 to {}.", kMostHistory)));
  return query;
}

}  // namespace

void PoolHistory(Services& services, std::shared_ptr<Exchange> exchange) {
  auto* pool = PoolOf(services, exchange);
  if (pool == nullptr) return;
  const auto query = ReadHistoryQuery(exchange->request());
  if (!query) return exchange->Send(ErrorResponse(query.error()));
  const platform::PoolTurnList turns = pool->Turns(query->turns_after, query->limit);
  const platform::PoolEventList events = pool->Events(query->events_after, query->limit);
  Json out{{"turns", Json::array()}, {"turns_missed", turns.missed}, {"turns_last", turns.last}};
  for (const auto& [from_s, to_s, turn] : turns.entries) {
    out["turns"].push_back({{"number", turn.number},
                            {"model", *turn.model},
                            {"from", from_s},
                            {"to", to_s},
                            {"steps", turn.steps},
                            {"tokens", turn.tokens},
                            {"answered", turn.answered},
                            {"late", turn.late},
                            {"least_slack_s", turn.answered > 0 ? Json(turn.least_slack_s) : Json(nullptr)}});
  }
  out["events"] = Json::array();
  for (const auto& entry : events.entries) {
    Json event{{"event", compute::PoolEventKindName(entry.event.kind)}};
    event.update(EngineEventJson(entry));
    out["events"].push_back(std::move(event));
  }
  out["events_missed"] = events.missed;
  out["events_last"] = events.last;
  exchange->Send(JsonResponse(out));
}

namespace {

void SendTrace(Services& services, const std::shared_ptr<Exchange>& exchange, bool requests) {
  const auto* pool = PoolOf(services, exchange);
  if (pool == nullptr) return;
  ServeReply(services, exchange, [&](Call& call) -> Result<HttpResponse> {
    TP_ASSIGN(std::string lines, pool->Trace(requests));
    platform::AuditActor owner = call.caller.actor;
    owner.organisation = owner.workspace = "";  // all of the installation
    const int64_t rows = std::count(lines.begin(), lines.end(), '\n');
    return Export(call, owner,
                  {.action = "trace.exported",
                   .name = requests ? "requests.jsonl" : "trace.jsonl",
                   .content_type = "application/x-ndjson",
                   .body = std::move(lines),
                   .rows = rows});
  });
}

}  // namespace

void PoolTrace(Services& services, std::shared_ptr<Exchange> exchange) {
  SendTrace(services, exchange, false);
}
void PoolTraceRequests(Services& services, std::shared_ptr<Exchange> exchange) {
  SendTrace(services, exchange, true);
}

void PoolResize(Services& services, std::shared_ptr<Exchange> exchange) {
  auto* pool = PoolOf(services, exchange);
  if (pool == nullptr) return;
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  if (auto known = CheckResize(*body); !known) return exchange->Send(ErrorResponse(known.error()));
  platform::PoolResize resize;
  const auto read = [&]() -> Status {
    TP_TRY(ReadBytes(services, *body, "memory", resize.memory));
    TP_TRY(ReadBytes(services, *body, "warm_memory", resize.warm_memory));
    TP_TRY(ReadBytes(services, *body, "host_kv", resize.host_kv));
    return pool->Resize(resize);
  };
  Json before = BudgetsNote(pool->State());
  if (auto resized = read(); !resized) return exchange->Send(ErrorResponse(resized.error()));
  const platform::PoolState now = pool->State();
  NoteChange(exchange->request(), std::move(before), BudgetsNote(now));
  Json state = PoolJson(now);
  const bool draining = state["memory"]["over_bytes"] > 0 || state["host_kv"]["over_bytes"] > 0;
  Json reply{{"memory", state["memory"]}, {"warm", state["warm"]}, {"host_kv", state["host_kv"]}};
  reply["draining"] = draining;
  reply["note"] =
      draining ? "More is in use than the new limit. Nothing is killed; nothing new is taken until it has "
                 "drained. The sizes last until the server starts again."
               : "The sizes last until the server starts again; settings make them permanent.";
  exchange->Send(JsonResponse(reply));
}

void PoolPolicy(Services& services, std::shared_ptr<Exchange> exchange) {
  auto* pool = PoolOf(services, exchange);
  if (pool == nullptr) return;
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  const auto request = ParsePoolPolicy(*body);
  if (!request) return exchange->Send(ErrorResponse(request.error()));
  Json before = PolicyNote(services, pool->State(), request->model);
  const auto changed = pool->SetPolicy(request->model, request->change);
  if (!changed) return exchange->Send(ErrorResponse(changed.error()));
  NoteChange(exchange->request(), std::move(before), PolicyNote(*changed));
  exchange->Send(JsonResponse(PoolModelJson(*changed)));
}

void PoolCordon(Services& services, std::shared_ptr<Exchange> exchange) {
  auto* pool = PoolOf(services, exchange);
  if (pool == nullptr) return;
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  const auto cordoned = ParseCordon(*body);
  if (!cordoned) return exchange->Send(ErrorResponse(cordoned.error()));
  const bool before = pool->State().device.cordoned;
  pool->SetCordoned(*cordoned);
  NoteChange(exchange->request(), Json{{"cordoned", before}}, Json{{"cordoned", *cordoned}});
  exchange->Send(JsonResponse(Json{{"cordoned", *cordoned}}));
}

// ---- schemas ------------------------------------------------------------------------------------------

namespace {

Json PlacesSchema(std::string_view description) {
  Json schema = Json::parse(R"json({"type": "object", "properties": {
    "resident": {"type": "integer"}, "loading": {"type": "integer"}, "warm": {"type": "integer"}, "cold": {"type": "integer"}}})json");
  schema["description"] = description;
  return schema;
}

Json BudgetStateSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "limit_bytes": {"type": "integer"}, "used_bytes": {"type": "integer"}, "over_bytes": {"type": "integer"}}})json");
}
Json MemorySchema() {
  Json schema = BudgetStateSchema();
  schema["properties"]["owners"] =
      Json::parse(R"json({"type": "array", "items": {"type": "object", "properties": {
    "owner": {"type": "string"}, "kind": {"enum": ["weights", "kv", "state", "scratch", "reserve"]}, "bytes": {"type": "integer"}}}})json");
  return schema;
}

}  // namespace

Json PoolModelSchema() {
  Json schema = Json::parse(R"json({
    "type": "object",
    "properties": {
      "id": {"type": "string"},
      "state": {"enum": ["stored", "loading", "ready", "failed", "quarantined"]},
      "load_share": {"type": "number"},
      "segments": {}, "bytes": {},
      "pooled": {"type": "boolean", "description": "its weights come and go as the pool decides"},
      "waiting": {"type": "integer"}, "active": {"type": "integer"}, "spilled": {"type": "integer"},
      "slack_s": {"type": ["number", "null"], "description": "until the next token of the most urgent request is due; negative: late"},
      "load": {"type": "number", "description": "share of the device that its requests need to keep their pace"},
      "pinned": {"type": "boolean"}, "pinned_by": {"enum": ["none", "settings", "schedule", "deployment", "operator"]},
      "idle_ttl_s": {"type": "number"}, "min_resident_s": {"type": "number"}, "ttft_s": {"type": "number"},
      "tpot_s": {"type": "number"}, "weight": {"type": "number"},
      "arrivals": {"type": "integer", "description": "requests since the start"},
      "loads": {"type": "integer"}, "failed_loads": {"type": "integer"}, "evictions": {"type": "integer"},
      "load_seconds": {"type": "number"}, "bytes_from_disk": {"type": "integer"}, "bytes_from_memory": {"type": "integer"},
      "engine": {"type": "object", "optional": true, "description": "of a loaded model", "properties": {
        "weight_bytes": {"type": "integer"}, "workspace_bytes": {"type": "integer"}, "kv_bytes": {"type": "integer"},
        "kv_blocks_used": {"type": "integer"}, "kv_blocks_cached": {"type": "integer"},
        "tokens_on_time": {"type": "integer"}, "tokens_late": {"type": "integer"},
        "running": {"type": "integer"}, "waiting": {"type": "integer"}}},
      "failures": {"type": "integer", "optional": true},
      "error": {"type": "object", "optional": true, "properties": {"message": {"type": "string"}, "code": {"type": ["string", "null"]}}},
      "retry_in_s": {"type": "number", "optional": true, "description": "state quarantined: when it is tried again"}}
  })json");
  schema["properties"]["segments"] =
      PlacesSchema("weights in the order a step needs them, counted by where they are");
  schema["properties"]["bytes"] = PlacesSchema("the same in bytes");
  return schema;
}

Json PoolSchema() {
  Json schema = Json::parse(R"json({
    "type": "object",
    "properties": {
      "policy": {"type": "string"},
      "memory": {}, "warm": {}, "host_kv": {},
      "packed_cache": {"type": "object", "optional": true, "properties": {
        "bytes": {"type": "integer"}, "files": {"type": "integer"}, "hits": {"type": "integer"}, "misses": {"type": "integer"},
        "rebuilds": {"type": "integer"}, "evictions": {"type": "integer"}}},
      "load_rates": {"type": "object", "properties": {"disk_bytes_per_s": {"type": "number"}, "memory_bytes_per_s": {"type": "number"}}},
      "device": {"type": "object", "properties": {
        "arena_bytes": {"type": "integer"}, "weight_bytes": {"type": "integer"}, "kv_bytes": {"type": "integer"},
        "cordoned": {"type": "boolean"}, "busy": {"type": "boolean"}, "running": {"type": ["string", "null"]},
        "load": {"type": "number", "description": "1: exactly enough for the pace of all requests"},
        "switch_share": {"type": "number", "description": "of its time that waited for weights with work at hand, over a minute"},
        "switches_per_s": {"type": "number"}, "kv_moves": {"type": "integer"}}},
      "counters": {"type": "object", "description": "since the start", "additionalProperties": {"type": "integer"}},
      "tokens": {"type": "object", "description": "since the start, as they happen", "properties": {
        "computed": {"type": "integer", "description": "of prompts and of answers"}, "generated": {"type": "integer", "description": "of answers"},
        "on_time": {"type": "integer", "description": "of these, when their model's ttft_s and tpot_s promise"}, "late": {"type": "integer"}}},
      "models": {"type": "array"}}
  })json");
  schema["properties"]["memory"] = MemorySchema();
  schema["properties"]["warm"] = BudgetStateSchema();
  schema["properties"]["host_kv"] = BudgetStateSchema();
  schema["properties"]["models"]["items"] = PoolModelSchema();
  return schema;
}

Json PoolEventsSchema() {
  Json schema{{"type", "object"},
              {"description", "of /api/v1/pool/events; those of the pool are as in its history"}};
  schema["properties"]["state"] = PoolSchema();
  return schema;
}

Json PoolHistorySchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {
      "turns": {"type": "array", "items": {"type": "object", "properties": {
        "number": {"type": "integer", "description": "from 1; the newest turn may grow: ask again after the one before it"},
        "model": {"type": "string"}, "from": {"type": "number", "description": "seconds since 1970"}, "to": {"type": "number"},
        "steps": {"type": "integer"}, "tokens": {"type": "integer", "description": "computed, prompts' included"},
        "answered": {"type": "integer", "description": "tokens of answers that were promised a time"},
        "late": {"type": "integer", "description": "of these, after it"},
        "least_slack_s": {"type": ["number", "null"], "description": "of these: the time left; negative: late"}}}},
      "turns_missed": {"type": "integer", "description": "that are not kept any more"}, "turns_last": {"type": "integer"},
      "events": {"type": "array", "items": {"type": "object", "properties": {
        "event": {"type": "string", "description": "load, loaded, load_failed, load_stopped, evict, spill, restore, recompute, reject, switch, weights_lost"},
        "number": {"type": "integer"}, "time": {"type": "number", "description": "seconds since 1970"},
        "model": {"type": "string", "optional": true}, "reason": {"type": "string", "optional": true},
        "bytes": {"type": "integer", "optional": true}, "seconds": {"type": "number", "optional": true},
        "resident_segments": {"type": "integer", "optional": true, "description": "of the model, after it"}}}},
      "events_missed": {"type": "integer"}, "events_last": {"type": "integer"}}
  })json");
}

Json PoolResizeRequestSchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {
      "memory": {"type": ["integer", "string"], "description": "bytes, \"8GiB\" or \"60%\" of the machine: weights and KV in use"},
      "warm_memory": {"type": ["integer", "string"], "description": "of weights kept in memory beside"},
      "host_kv": {"type": ["integer", "string"], "description": "of KV that had to make way"}}
  })json");
}
Json PoolResizeSchema() {
  Json schema = Json::parse(R"json({
    "type": "object",
    "properties": {"memory": {}, "warm": {}, "host_kv": {},
      "draining": {"type": "boolean", "description": "more is in use than the new limit; nothing new is taken until it has drained"},
      "note": {"type": "string"}}
  })json");
  schema["properties"]["memory"] = MemorySchema();
  schema["properties"]["warm"] = BudgetStateSchema();
  schema["properties"]["host_kv"] = BudgetStateSchema();
  return schema;
}
Json PoolPolicyRequestSchema() { return openai::SchemaOf(PoolPolicyFields(), {"model"}); }
Json PoolCordonSchema() {
  return Json::parse(R"json({
    "type": "object", "required": ["cordoned"],
    "properties": {"cordoned": {"type": "boolean", "description": "true: no new work begins; what runs ends"}}
  })json");
}

}  // namespace tidepool::gateway::native
