// Simulations and plans: the simulator's own requests, bounded for a server that has other work.
#include <atomic>
#include <functional>

#include "compute/simulator/planner.h"
#include "gateway/errors.h"
#include "gateway/native/handlers.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

namespace {

// One core for a minute at most; the command line has no such limits.
compute::StudyLimits ServerLimits() {
  compute::StudyLimits limits;
  limits.max_requests = 200'000;
  limits.max_models = 1000;
  limits.max_devices = 1024;
  limits.max_runs = 64;
  limits.max_seconds = 60;
  return limits;
}

struct Watcher : ExchangeListener {
  std::atomic<bool> closed{false};
  void OnClosed() override { closed = true; }
};

void RunStudyRequest(Services& services, const std::shared_ptr<Exchange>& exchange,
                     decltype(compute::SimulateStudy)* study) {
  static std::atomic<bool> running{false};  // of the process: it is the core that is short
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  if (running.exchange(true)) {
    return exchange->Send(
        ErrorResponse(Error{ErrorKind::kConflict, "simulation_running",
                            "A simulation is running already; try again when it is done.", "", 10}));
  }
  const auto watcher = std::make_shared<Watcher>();
  exchange->Listen(watcher);
  const auto result = study(*body, ServerLimits(), [&](double, const std::string&) {
    return !services.draining && !watcher->closed;
  });
  running = false;
  if (!result) return exchange->Send(ErrorResponse(result.error()));
  exchange->Send(JsonResponse(*result));
}

// The fields that simulations and plans share.
Json StudyFieldsSchema() {
  return Json::parse(R"json({
    "workload": {"type": "string", "description": "poisson:RATE[xMODELS], gamma:RATE,CV, zipf:ALPHA,TOTAL or power:ALPHA,FIRST (requests/s); or give a trace"},
    "trace": {"type": "object", "properties": {"name": {"type": "string"}, "text": {"type": "string", "description": "CSV (Aegaeon, Azure) or JSONL: arrival_s, model, prompt_tokens, output_tokens, account, class"}}},
    "repeat_until_s": {"type": "number", "description": "Poisson at the trace's rate for each model, with its lengths, for so long"},
    "duration_s": {"type": "number", "default": 900},
    "popularity": {"type": "string", "description": "zipf:ALPHA, for a trace that names no models"},
    "models": {"description": "mix:sosp25, a mix such as 6xqwen2.5-7b,2xllama2-13b, or a list of models", "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object", "properties": {
      "name": {"type": "string"}, "like": {"type": "string", "description": "a model whose shape and profiles are known"},
      "count": {"type": "integer"}, "rate": {"type": "number", "description": "requests/s, when there is no workload"},
      "weight_bytes": {"type": "integer"}, "layers": {"type": "integer"}, "kv_token_bytes": {"type": "integer"},
      "profiles": {"type": "object", "description": "step profile by kind of device, as in data/profiles"}}}}]},
    "model_count": {"type": "integer"},
    "profiles": {"type": "array", "items": {"type": "object"}, "description": "more kinds of devices, as in data/profiles"},
    "ttft_s": {"type": "number", "default": 10}, "tpot_s": {"type": "number", "default": 0.1},
    "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0}, "default": [1]},
    "lengths": {"type": "object", "properties": {"name": {"type": "string"}, "text": {"type": "string", "description": "a CSV to draw lengths from"}}},
    "input_scale": {"type": "number", "default": 1}, "output_scale": {"type": "number", "default": 1},
    "copy_gbps": {"type": "number"}, "load_gbps": {"type": "number", "default": 8},
    "host_memory_gb": {"type": "number"}, "admission": {"type": "number", "description": "refuse beyond this load of every device; 0: never"},
    "batch_tokens": {"type": "integer"}, "max_sequences": {"type": "integer"},
    "max_output_tokens": {"type": "integer", "default": 2048},
    "title": {"type": "string"}, "chart": {"type": "boolean", "default": false, "description": "add svg"}
  })json");
}

}  // namespace

void Simulate(Services& services, std::shared_ptr<Exchange> exchange) {
  RunStudyRequest(services, exchange, &compute::SimulateStudy);
}

void Plan(Services& services, std::shared_ptr<Exchange> exchange) {
  RunStudyRequest(services, exchange, &compute::PlanStudy);
}

Json SimulateRequestSchema() {
  Json schema = Json::parse(R"json({"type": "object", "properties": {
    "devices": {"type": "string", "default": "16xH800", "description": "such as 8xH100,4xA10; hosts of 8"},
    "policies": {"type": "array", "items": {"type": "string"}, "default": ["tidepool"], "description": "tidepool, dedicated, static, lru, serverlessllm, aegaeon, or all"},
    "split": {"type": "string", "description": "devices that prefill and that decode, for aegaeon: 6:10"},
    "sweep": {"type": "object", "properties": {"of": {"enum": ["models", "devices", "rate", "slo"]}, "values": {"type": "array", "items": {"type": "number"}}}}
  }})json");
  schema["properties"].update(StudyFieldsSchema());
  return schema;
}

Json SimulateSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "data": {"type": "array", "items": {"type": "object", "properties": {
      "policy": {"type": "string"}, "models": {"type": "integer"}, "devices": {"type": "integer"},
      "requests": {"type": "integer"},
      "tokens_on_time": {"type": "number", "description": "share of all offered; refused ones are late"},
      "requests_on_time": {"type": "number"}, "ttft_p50_s": {"type": "number"}, "ttft_p99_s": {"type": "number"},
      "max_stall_p50_s": {"type": "number"}, "max_stall_p99_s": {"type": "number"}, "utilisation": {"type": "number"},
      "switches": {"type": "integer"}, "bytes_moved": {"type": "integer"}, "wall_s": {"type": "number"},
      "refused_share": {"type": "number"}, "admitted_on_time": {"type": "number", "description": "share of the tokens of requests that were not refused"}, "unfinished": {"type": "integer"}, "tokens": {"type": "integer"},
      "makespan_s": {"type": "number"}, "qos_sosp25": {"type": "number", "description": "the SOSP'25 artifact's softer measure"},
      "sweep": {"optional": true, "type": "string"}, "sweep_value": {"optional": true, "type": "number"},
      "seeds": {"type": "array", "optional": true, "items": {"type": "object"}, "description": "several seeds: each one's row; the row above is the worst of them, field by field"}}}},
    "ttft_s": {"type": "number"}, "tpot_s": {"type": "number"}, "seeds": {"type": "array", "items": {"type": "integer"}},
    "svg": {"type": "string", "optional": true}}})json");
}

Json PlanRequestSchema() {
  Json schema = Json::parse(R"json({"type": "object", "properties": {
    "devices": {"type": "string", "default": "H800", "description": "kinds, such as H20,H100"},
    "share": {"type": "number", "default": 0.99, "description": "of tokens that must be on time"},
    "prices": {"type": "object", "description": "of an hour of one device, by kind"},
    "risk": {"type": "number", "default": 2, "description": "the load at which the result is tried again"},
    "max_count": {"type": "integer", "default": 1024}
  }})json");
  schema["properties"].update(StudyFieldsSchema());
  return schema;
}

Json PlanSchema() {
  Json sized = Json::parse(R"json({"type": "object", "properties": {
    "devices": {"type": ["integer", "null"]}, "tokens_on_time": {"type": "number"},
    "requests_on_time": {"type": "number"}, "per_hour": {"optional": true, "type": "number"}, "per_million_tokens": {"optional": true, "type": "number"},
    "at_risk": {"optional": true, "type": "object", "properties": {"load": {"type": "number"}, "tokens_on_time": {"type": "number"}, "refused_share": {"optional": true, "type": "number"}}}}})json");
  Json schema = Json::parse(R"json({"type": "object", "properties": {
    "models": {"type": "integer"}, "requests_per_s": {"type": "number"}, "tokens_per_s": {"type": "number"},
    "share": {"type": "number"},
    "data": {"type": "array", "items": {"type": "object", "properties": {
      "kind": {"type": "string"}, "price_per_hour": {"optional": true, "type": "number"}, "saving": {"optional": true, "type": "number"},
      "placement": {"optional": true, "type": "array", "items": {"type": "object", "properties": {
        "device": {"type": "integer"}, "host": {"type": "integer"}, "busy": {"type": "number"},
        "models": {"type": "array", "items": {"type": "object", "properties": {"model": {"type": "string"}, "share": {"type": "number"}}}}}}}}}},
    "svg": {"optional": true, "type": "string"}}})json");
  schema["properties"]["data"]["items"]["properties"]["pooled"] = sized;
  schema["properties"]["data"]["items"]["properties"]["dedicated"] = std::move(sized);
  return schema;
}

}  // namespace tidepool::gateway::native
