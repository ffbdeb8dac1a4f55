#include <fmt/format.h>

#include "gateway/errors.h"
#include "gateway/model_card.h"
#include "gateway/native/fields.h"
#include "gateway/native/handlers.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

namespace {

// What others have running is the operator's to see.
Json ModelJson(const Services& services, const platform::DeploymentStatus& status, bool is_operator) {
  const ModelCard card = CardOf(services, status);
  Json out;
  const platform::StoredModel& model = status.model;
  out["id"] = status.id;
  if (status.spec) out["deployment"] = status.spec->name;
  out["state"] = platform::DeploymentStateName(status.state);
  out["load_share"] = status.state == platform::DeploymentState::kReady ? 1.0 : status.load_share;
  out["place"] = platform::WeightPlaceName(status.place);
  out["bytes"] = model.bytes;
  out["format"] = model.format;
  out["architecture"] = model.architecture;
  out["quantisation"] = model.quantisation;
  out["parameters"] = model.parameters;
  out["context_length"] = card.context_length;
  out["licence"] = model.licence;
  out["source"] = model.source;
  out["created"] = model.created;
  out["generates"] = model.generates;
  out["ranks"] = model.ranks;
  out["capabilities"] = card.Capabilities();
  const bool quarantined = status.state == platform::DeploymentState::kQuarantined;
  if (quarantined || status.state == platform::DeploymentState::kFailed)
    out["error"] = ErrorJson(status.error)["error"];
  if (quarantined) out["retry_in_s"] = status.retry_in_s;
  if (status.engine) {
    const compute::ModelEntry& entry = *status.engine;
    Json engine;
    engine["context_length"] = card.context_length;
    engine["weight_bytes"] = entry.weight_bytes;
    engine["workspace_bytes"] = entry.workspace_bytes;
    engine["kv_bytes"] = entry.kv_bytes;
    if (is_operator) {
      engine["kv_blocks_used"] = entry.kv_blocks_used;
      engine["kv_blocks_cached"] = entry.kv_blocks_cached;
      engine["running"] = entry.running;
      engine["waiting"] = entry.waiting;
    }
    out["engine"] = std::move(engine);
  }
  return out;
}

std::string Id(const Exchange& exchange) { return std::string(exchange.request().PathValue("id")); }

void SendModel(Services& services, const std::shared_ptr<Exchange>& exchange, int status) {
  const auto found = services.inference.Find(Id(*exchange));
  if (!found) return exchange->Send(ErrorResponse(found.error()));
  if (!platform::MayUse(exchange->request().principal, *found)) {
    return exchange->Send(ErrorResponse(Error{ErrorKind::kNotFound, "model_not_found",
                                              "There is no such model that this key may see.", "model", 0}));
  }
  exchange->Send(
      JsonResponse(ModelJson(services, *found, exchange->request().principal.is_operator), status));
}

}  // namespace

void ListModels(Services& services, std::shared_ptr<Exchange> exchange) {
  Json data = Json::array();
  const platform::Principal& who = exchange->request().principal;
  for (const auto& status : services.inference.List()) {
    if (who.MayUseModel(status.id)) data.push_back(ModelJson(services, status, who.is_operator));
  }
  exchange->Send(JsonResponse(Json{{"data", std::move(data)}}));
}

void GetModel(Services& services, std::shared_ptr<Exchange> exchange) { SendModel(services, exchange, 200); }

void DeleteModel(Services& services, std::shared_ptr<Exchange> exchange) {
  const std::string id = Id(*exchange);
  const auto found = services.inference.Find(id);
  if (!found) return exchange->Send(ErrorResponse(found.error()));
  if (auto removed = services.inference.Remove(id); !removed)
    return exchange->Send(ErrorResponse(removed.error()));
  exchange->Send(JsonResponse(Json{{"id", found->id}, {"deleted", true}}));
}

void LoadModel(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request(), true);
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  const auto wait = ParseLoad(*body);
  if (!wait) return exchange->Send(ErrorResponse(wait.error()));
  const std::string id = Id(*exchange);
  if (const auto found = services.inference.Find(id); !found)
    return exchange->Send(ErrorResponse(found.error()));
  if (!*wait) {
    services.inference.Load(id, [](Status) {});
    return SendModel(services, exchange, 202);
  }
  services.inference.Load(id, [&services, workers = services.workers, exchange](Status loaded) {
    if (!loaded) return exchange->Send(ErrorResponse(loaded.error()));
    // Not on the loader's thread: it may hold the lock that Find takes.
    if (!workers->Submit([&services, exchange] { SendModel(services, exchange, 200); })) {
      exchange->Send(
          ErrorResponse(503, "server_busy", "The model is loaded; the server is too busy to show it."));
    }
  });
}

void UnloadModel(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request(), true);
  if (!body) return exchange->Send(ErrorResponse(body.error()));
  const auto force = ParseUnload(*body);
  if (!force) return exchange->Send(ErrorResponse(force.error()));
  const auto unloaded = services.inference.Unload(Id(*exchange), *force);
  if (!unloaded) return exchange->Send(ErrorResponse(unloaded.error()));
  SendModel(services, exchange, 200);
}

void Catalogue(Services& services, std::shared_ptr<Exchange> exchange) {
  Json data = Json::array();
  for (const platform::CatalogueEntry& entry : services.catalog.catalogue()) {
    Json item;
    item["id"] = entry.id;
    item["sources"] = entry.sources;
    item["licence"] = entry.licence;
    item["family"] = entry.family;
    item["parameters"] = entry.parameters;
    item["context_length"] = entry.context_length;
    data.push_back(std::move(item));
  }
  exchange->Send(JsonResponse(Json{{"data", std::move(data)}}));
}

}  // namespace tidepool::gateway::native
