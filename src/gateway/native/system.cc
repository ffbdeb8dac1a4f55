#include <fmt/format.h>

#include "gateway/errors.h"
#include "gateway/native/call.h"
#include "gateway/native/fields.h"
#include "gateway/native/handlers.h"
#include "platform/inference/pool_control.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

namespace {

void SendHook(const std::shared_ptr<Exchange>& exchange, const std::function<Json()>& hook,
              std::string_view name) {
  if (!hook) {
    return exchange->Send(ErrorResponse(501, "not_available", fmt::format("This server has no {}.", name)));
  }
  exchange->Send(JsonResponse(hook()));
}

}  // namespace

void Health(Services& /*services*/, std::shared_ptr<Exchange> exchange) {
  exchange->Send(JsonResponse(Json{{"status", "ok"}}));
}

void Ready(Services& services, std::shared_ptr<Exchange> exchange) {
  if (services.draining)
    return exchange->Send(JsonResponse(Json{{"ready", false}, {"reason", "draining"}}, 503));
  exchange->Send(JsonResponse(Json{{"ready", true}}));
}

void Version(Services& services, std::shared_ptr<Exchange> exchange) {
  exchange->Send(JsonResponse(Json{{"version", services.hooks.version}, {"commit", services.hooks.commit}}));
}

void OpenApi(Services& /*services*/, std::shared_ptr<Exchange> exchange) {
  exchange->Send(JsonResponse(OpenApiDocument()));
}

void Metrics(Services& services, std::shared_ptr<Exchange> exchange) {
  if (auto* pool = services.inference.pool()) pool->UpdateMetrics();
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = services.metrics.Serialize();
  exchange->Send(std::move(response));
}

void Settings(Services& services, std::shared_ptr<Exchange> exchange) {
  SendHook(exchange, services.hooks.settings, "settings");
}

namespace {

constexpr openai::Field kSettingsFields[] = {
    {"values", openai::FieldType::kObject, openai::Treatment::kRead,
     "settings by name: text, a number, true or false, a list of text; null takes a change back"}};

}  // namespace

void ChangeSettings(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kSettingsFields));
    if (!call.Has("values"))
      return Fail(openai::BadField("values", "values is missing: settings by name.", "missing_field"));
    const ServerHooks& hooks = call.services.hooks;
    if (!hooks.change_settings || !hooks.settings)
      return Fail(ErrorKind::kInvalid, "not_available", "This server's settings cannot be changed here.");
    TP_TRY(hooks.change_settings(call.body()["values"], [&](const Json& before, const Json& after) {
      return call.audit().Record(call.caller.actor, "settings.changed", "settings", before, after);
    }));
    return hooks.settings();
  });
}

Json SettingsRequestSchema() { return openai::SchemaOf(kSettingsFields, {"values"}); }
Json SettingsSchema() {
  return Json::parse(
      R"json({"type": "object", "properties": {"data": {"type": "array", "items": {"type": "object", "properties": {
    "id": {"type": "string"}, "value": {"type": "string", "description": "in force"},
    "source": {"enum": ["default", "file", "console", "environment", "flag"]}, "default": {"type": "string"},
    "allowed": {"type": "string"}, "help": {"type": "string"}, "environment": {"type": "string"}, "flag": {"type": "string"},
    "kind": {"enum": ["text", "folder", "boolean", "integer", "number", "bytes", "memory", "choice", "list"]},
    "minimum": {"type": ["number", "null"]}, "maximum": {"type": ["number", "null"]},
    "choices": {"type": "array", "items": {"type": "string"}},
    "editable": {"type": "boolean", "description": "PATCH may change it"},
    "next": {"type": ["string", "null"], "description": "the value at the next start, if it is another one"},
    "next_source": {"type": ["string", "null"]},
    "live": {"type": "boolean", "description": "a change takes effect at once"}}}}}})json");
}

void Doctor(Services& services, std::shared_ptr<Exchange> exchange) {
  SendHook(exchange, services.hooks.doctor, "doctor");
}
void ServerStatus(Services& services, std::shared_ptr<Exchange> exchange) {
  SendHook(exchange, services.hooks.status, "status");
}

void Bench(Services& services, std::shared_ptr<Exchange> exchange) {
  if (!services.hooks.bench) {
    return exchange->Send(ErrorResponse(501, "not_available", "This server has no bench."));
  }
  auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  if (auto checked = CheckBench(*body); !checked) return exchange->Send(ErrorResponse(checked.error()));
  // Two at once would measure each other.
  if (services.bench_running.exchange(true)) {
    return exchange->Send(
        ErrorResponse(Error{ErrorKind::kConflict, "bench_running",
                            "A bench is running already; try again when it is done.", "", 10}));
  }
  auto result = services.hooks.bench(*body);
  services.bench_running = false;
  if (!result) return exchange->Send(ErrorResponse(result.error()));
  exchange->Send(JsonResponse(*result));
}

}  // namespace tidepool::gateway::native
