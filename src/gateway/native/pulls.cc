#include "gateway/errors.h"
#include "gateway/native/fields.h"
#include "gateway/native/handlers.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

namespace {

Json PullJson(const platform::PullStatus& pull) {
  Json out;
  out["id"] = pull.id;
  out["model"] = pull.model;
  out["result"] = pull.result.empty() ? Json(nullptr) : Json(pull.result);
  out["state"] = platform::PullStateName(pull.state);
  out["phase"] = pull.phase;
  out["bytes_done"] = pull.bytes_done;
  out["bytes_total"] = pull.bytes_total;
  out["bytes_per_s"] = pull.bytes_per_s;
  out["error"] = pull.state == platform::PullState::kFailed ? ErrorJson(pull.error)["error"] : Json(nullptr);
  out["created"] = pull.created;
  return out;
}

void SendPull(Services& services, const std::shared_ptr<Exchange>& exchange) {
  const auto pull = services.catalog.FindPull(exchange->request().PathValue("id"));
  if (!pull) return exchange->Send(ErrorResponse(pull.error()));
  exchange->Send(JsonResponse(PullJson(*pull)));
}

void Change(Services& services, const std::shared_ptr<Exchange>& exchange,
            Status (platform::Catalog::*change)(std::string_view)) {
  const auto changed = (services.catalog.*change)(exchange->request().PathValue("id"));
  if (!changed) return exchange->Send(ErrorResponse(changed.error()));
  SendPull(services, exchange);
}

}  // namespace

void StartPull(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  const auto request = ParsePull(*body);
  if (!request) return exchange->Send(ErrorResponse(request.error()));
  const platform::PullCaller caller{exchange->request().owns_machine};
  const auto pull = services.catalog.StartPull(request->source, request->name, caller);
  if (!pull) return exchange->Send(ErrorResponse(pull.error()));
  exchange->Send(JsonResponse(PullJson(*pull), 202));
}

void ListPulls(Services& services, std::shared_ptr<Exchange> exchange) {
  Json data = Json::array();
  for (const auto& pull : services.catalog.ListPulls()) data.push_back(PullJson(pull));
  exchange->Send(JsonResponse(Json{{"data", std::move(data)}}));
}

void GetPull(Services& services, std::shared_ptr<Exchange> exchange) { SendPull(services, exchange); }
void PausePull(Services& services, std::shared_ptr<Exchange> exchange) {
  Change(services, exchange, &platform::Catalog::PausePull);
}
void ResumePull(Services& services, std::shared_ptr<Exchange> exchange) {
  Change(services, exchange, &platform::Catalog::ResumePull);
}
void CancelPull(Services& services, std::shared_ptr<Exchange> exchange) {
  Change(services, exchange, &platform::Catalog::CancelPull);
}

}  // namespace tidepool::gateway::native
