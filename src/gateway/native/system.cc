#include <fmt/format.h>

#include "gateway/errors.h"
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
