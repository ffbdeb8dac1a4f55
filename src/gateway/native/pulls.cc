#include <algorithm>

#include "gateway/action_note.h"
#include "gateway/errors.h"
#include "gateway/native/call.h"
#include "gateway/native/fields.h"
#include "gateway/native/handlers.h"

namespace tidepool::gateway::native {

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

// For the audit log; null: there was no such pull.
Json PullNote(const Result<platform::PullStatus>& pull) {
  if (!pull) return nullptr;
  return {{"pull", pull->id}, {"model", pull->model}, {"state", platform::PullStateName(pull->state)}};
}

void Change(Services& services, const std::shared_ptr<Exchange>& exchange,
            Status (platform::Catalog::*change)(std::string_view)) {
  const std::string_view id = exchange->request().PathValue("id");
  Json before = PullNote(services.catalog.FindPull(id));
  const auto changed = (services.catalog.*change)(id);
  if (!changed) return exchange->Send(ErrorResponse(changed.error()));
  NoteChange(exchange->request(), std::move(before), PullNote(services.catalog.FindPull(id)));
  SendPull(services, exchange);
}

Result<HttpResponse> Started(Services& services, const HttpRequest& http) {
  TP_ASSIGN(const Json body, JsonBody(services, http));
  TP_ASSIGN(const auto request, ParsePull(body));
  const auto pulls = services.catalog.ListPulls();
  TP_ASSIGN(
      const platform::PullStatus pull,
      services.catalog.StartPull(request.source, request.name, platform::PullCaller{http.owns_machine}));
  // Who asks for what runs already joins it.
  const auto joined =
      std::find_if(pulls.begin(), pulls.end(), [&](const auto& one) { return one.id == pull.id; });
  NoteChange(http, joined == pulls.end() ? Json() : PullNote(*joined), PullNote(pull));
  return JsonResponse(PullJson(pull), 202);
}

}  // namespace

void StartPull(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto start = [&] { return Started(services, exchange->request()); };
  // With accounts, an Idempotency-Key starts it once.
  if (services.hooks.accounts != nullptr)
    return ServeReply(services, exchange, [&](Call&) { return start(); });
  auto started = start();
  exchange->Send(started ? std::move(*started) : ErrorResponse(started.error()));
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
