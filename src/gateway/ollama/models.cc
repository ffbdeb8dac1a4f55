// The store and the pool as Ollama's clients see them.
#include <fmt/format.h>

#include <algorithm>

#include "gateway/action_note.h"
#include "gateway/errors.h"
#include "gateway/inference_call.h"
#include "gateway/model_card.h"
#include "gateway/ollama/handlers.h"
#include "gateway/ollama/pull_feed.h"
#include "gateway/ollama/reply.h"
#include "gateway/ollama/requests.h"
#include "platform/inference/pool_control.h"

namespace tidepool::gateway::ollama {
namespace {

// Clients tell models by "name:tag".
std::string ShownName(const std::string& id) {
  return id.find(':') == std::string::npos ? id + ":latest" : id;
}

// 134515008 -> "134.52M", 7615616512 -> "7.6B", as Ollama prints them.
std::string ParameterSize(uint64_t parameters) {
  const auto count = static_cast<double>(parameters);
  if (count >= 1e9) return fmt::format("{:.1f}B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.2f}M", count / 1e6);
  if (count >= 1e3) return fmt::format("{:.0f}K", count / 1e3);
  return fmt::to_string(parameters);
}

// Hex that identifies the content: of the largest file, the weights.
std::string Digest(const platform::StoredModel& model) {
  const auto largest = std::max_element(model.files.begin(), model.files.end(),
                                        [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  return largest == model.files.end() ? std::string(64, '0') : largest->sha256;
}

Json Details(const platform::StoredModel& model) {
  Json out;
  out["parent_model"] = "";
  out["format"] = model.format;
  out["family"] = model.architecture;
  out["families"] = Json::array({model.architecture});
  out["parameter_size"] = ParameterSize(model.parameters);
  out["quantization_level"] = model.quantisation;
  return out;
}

Json Listed(const platform::DeploymentStatus& status) {
  Json out;
  out["name"] = ShownName(status.name());
  out["model"] = ShownName(status.name());
  out["modified_at"] = TimeText(status.model.created);
  out["size"] = status.model.bytes;
  out["digest"] = Digest(status.model);
  out["details"] = Details(status.model);
  if (status.spec) out["details"]["parent_model"] = ShownName(status.id);
  return out;
}

// The model that the body names, if this key may see it.
Result<platform::DeploymentStatus> FindNamed(Services& services, const HttpRequest& http,
                                             const std::string& name) {
  TP_ASSIGN(platform::DeploymentStatus found, services.inference.Find(StoredName(services, name)));
  if (!platform::MayUse(http.principal, found)) {
    return Fail(ErrorKind::kNotFound, "model_not_found",
                fmt::format("There is no model \"{}\" that this key may see.", name.substr(0, 100)), "model");
  }
  return found;
}

// Until when it stays if nobody asks: pinned models and those without a time to live for ever.
std::string ExpiresAt(const platform::DeploymentStatus& status,
                      const std::vector<platform::PoolModelState>& states, const Clock& clock) {
  const auto state =
      std::find_if(states.begin(), states.end(), [&](const auto& s) { return s.id == status.id; });
  if (state == states.end() || state->policy.pinned || state->policy.idle_ttl_s < 0)
    return "9999-12-31T23:59:59Z";
  const double idle_s =
      status.engine->running + status.engine->waiting > 0
          ? 0
          : static_cast<double>(clock.now() - status.engine->last_used) / static_cast<double>(kSecond);
  return TimeText(UnixTimeSeconds() +
                  static_cast<int64_t>(std::max(0.0, state->policy.idle_ttl_s - std::max(0.0, idle_s))));
}

}  // namespace

void Tags(Services& services, std::shared_ptr<Exchange> exchange) {
  Json models = Json::array();
  for (const auto& status : services.inference.ListCallable()) {
    if (platform::MayUse(exchange->request().principal, status)) models.push_back(Listed(status));
  }
  exchange->Send(JsonResponse(Json{{"models", std::move(models)}}));
}

void Show(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorReply(body.error()));
  const auto parsed = ParseName(*body);
  if (!parsed) return exchange->Send(ErrorReply(parsed.error()));
  const auto found = FindNamed(services, exchange->request(), parsed->model);
  if (!found) return exchange->Send(ErrorReply(found.error()));
  const ModelCard card = CardOf(services, *found);
  const platform::SamplingRequest& sampling = card.description.sampling;
  const platform::StoredModel& model = found->model;
  Json out;
  out["license"] = model.licence;
  out["modelfile"] = fmt::format("FROM {}\n", ShownName(found->id));
  std::string parameters;
  const auto add = [&](std::string_view name, const auto& value) {
    if (value) fmt::format_to(std::back_inserter(parameters), "{:<30} {}\n", name, *value);
  };
  add("temperature", sampling.temperature);
  add("top_k", sampling.top_k);
  add("top_p", sampling.top_p);
  add("min_p", sampling.min_p);
  add("repeat_penalty", sampling.repetition_penalty);
  out["parameters"] = std::move(parameters);
  out["template"] = card.generates ? card.description.chat_template : "";
  out["details"] = Details(model);
  Json info;
  info["general.architecture"] = model.architecture;
  info["general.parameter_count"] = model.parameters;
  info[model.architecture + ".context_length"] = card.context_length;
  if (card.description.hidden_size > 0)
    info[model.architecture + ".embedding_length"] = card.description.hidden_size;
  if (card.description.layers > 0) info[model.architecture + ".block_count"] = card.description.layers;
  out["model_info"] = std::move(info);
  Json capabilities = Json::array({card.ranks ? "rerank" : card.generates ? "completion" : "embedding"});
  if (card.tools) capabilities.push_back("tools");
  if (card.thinks) capabilities.push_back("thinking");
  out["capabilities"] = std::move(capabilities);
  out["modified_at"] = TimeText(model.created);
  exchange->Send(WithIgnored(JsonResponse(out), parsed->ignored));
}

void Running(Services& services, std::shared_ptr<Exchange> exchange) {
  std::vector<platform::PoolModelState> states;
  if (platform::PoolControl* pool = services.inference.pool()) states = pool->State().models;
  Json models = Json::array();
  for (const auto& status : services.inference.List()) {
    if (!status.engine || !exchange->request().principal.MayUseModel(status.id)) continue;
    Json item = Listed(status);
    item.erase("modified_at");
    item["size"] = status.engine->weight_bytes + status.engine->workspace_bytes + status.engine->kv_bytes;
    item["expires_at"] = ExpiresAt(status, states, services.clock);
    item["size_vram"] = 0;  // what of it lies in a GPU's memory
    item["context_length"] = status.context_length;
    models.push_back(std::move(item));
  }
  exchange->Send(JsonResponse(Json{{"models", std::move(models)}}));
}

void Version(Services& services, std::shared_ptr<Exchange> exchange) {
  exchange->Send(
      JsonResponse(Json{{"version", kSpokenVersion}, {"server", "tidepool " + services.hooks.version}}));
}

void Pull(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorReply(body.error()));
  const auto parsed = ParseName(*body);
  if (!parsed) return exchange->Send(ErrorReply(parsed.error()));
  const platform::PullCaller caller{exchange->request().owns_machine};
  const auto pull = services.catalog.StartPull(parsed->model, "", caller);
  if (!pull) return exchange->Send(ErrorReply(pull.error()));
  NoteChange(exchange->request(), nullptr,
             {{"pull", pull->id}, {"model", pull->model}, {"state", platform::PullStateName(pull->state)}});
  services.pull_feed.Add(std::move(exchange), pull->id, parsed->stream);
}

void Delete(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto body = JsonBody(services, exchange->request());
  if (!body) return exchange->Send(ErrorReply(body.error()));
  const auto parsed = ParseName(*body);
  if (!parsed) return exchange->Send(ErrorReply(parsed.error()));
  const auto found = FindNamed(services, exchange->request(), parsed->model);
  if (!found) return exchange->Send(ErrorReply(found.error()));
  if (auto removed = services.inference.Remove(found->name()); !removed)
    return exchange->Send(ErrorReply(removed.error()));
  exchange->Send(JsonResponse(Json{{"status", "success"}}));
}

void NotSupported(Services& /*services*/, std::shared_ptr<Exchange> exchange) {
  exchange->Send(ErrorReply(
      Error{ErrorKind::kInvalid, "not_supported",
            "Models come by pulls and have one name here: POST /api/pull, or `tidepool pull`.", "", 0}));
}

}  // namespace tidepool::gateway::ollama
