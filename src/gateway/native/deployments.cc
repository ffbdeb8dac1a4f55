// Deployments: /api/v1/deployments. Names that clients call, each of a stored model.
#include <fmt/format.h>

#include "gateway/errors.h"
#include "gateway/native/call.h"
#include "gateway/native/handlers.h"
#include "platform/catalog/deployment_book.h"

namespace tidepool::gateway::native {
namespace {

using openai::BadField;
using openai::Field;
using openai::FieldReader;
using openai::FieldType;
using openai::Treatment;

constexpr double kMostTokens = 2147483647;

// name comes first, force last: the others can be changed.
constexpr Field kDeploymentFields[] = {
    {"name", FieldType::kString, Treatment::kRead,
     "what clients call: 1 to 128 letters, digits and . _ - : / , no name of a model"},
    {"base", FieldType::kString, Treatment::kRead, "a model of the store"},
    {"description", FieldType::kString, Treatment::kRead, "for people"},
    {"chat_template", FieldType::kString, Treatment::kRead, "Jinja, in place of the model's own"},
    {"system_prompt", FieldType::kString, Treatment::kRead, "of conversations that begin without one"},
    {"defaults", FieldType::kObject, Treatment::kRead, "what a request takes where it is silent"},
    {"max_context_tokens", FieldType::kInteger, Treatment::kRead,
     "of prompt and answer together; 0: the model's", 0, kMostTokens},
    {"max_output_tokens", FieldType::kInteger, Treatment::kRead,
     "longer answers end there (finish_reason length); 0: the context", 0, kMostTokens},
    {"pinned", FieldType::kBoolean, Treatment::kRead, "true: the base model is kept resident"},
    {"idle_ttl_s", FieldType::kNumber, Treatment::kRead,
     "its weights go after so long without work; -1: when room is needed", -1, 31536000},
    {"min_resident_s", FieldType::kNumber, Treatment::kRead, "and not earlier after they came", 0, 86400},
    {"ttft_s", FieldType::kNumber, Treatment::kRead, "until the first token is due", 0, 86400, true},
    {"tpot_s", FieldType::kNumber, Treatment::kRead, "from one token to the next", 0, 3600, true},
    {"weight", FieldType::kNumber, Treatment::kRead, "of its requests against other models'", 0.001, 1000},
    {"force", FieldType::kBoolean, Treatment::kRead, "true: also if the model does not fit the pool"},
};
constexpr std::span<const Field> kDeploymentChangeFields = std::span(kDeploymentFields).subspan(1);

constexpr Field kDefaultsFields[] = {
    {"temperature", FieldType::kNumber, Treatment::kRead, "", 0, 2},
    {"top_p", FieldType::kNumber, Treatment::kRead, "", 0, 1, true},
    {"top_k", FieldType::kInteger, Treatment::kRead, "0 or -1: off", -1, kMostTokens},
    {"min_p", FieldType::kNumber, Treatment::kRead, "", 0, 1},
    {"repetition_penalty", FieldType::kNumber, Treatment::kRead, "", 0, 10, true},
    {"presence_penalty", FieldType::kNumber, Treatment::kRead, "", -2, 2},
    {"frequency_penalty", FieldType::kNumber, Treatment::kRead, "", -2, 2},
    {"max_tokens", FieldType::kInteger, Treatment::kRead, "of an answer", 1, kMostTokens},
    {"reasoning_budget", FieldType::kInteger, Treatment::kRead, "tokens of reasoning; -1: no bound", -1,
     kMostTokens},
    {"stop", FieldType::kArray, Treatment::kRead, "at most 16 texts that end an answer"},
    {"thinking", FieldType::kBoolean, Treatment::kRead, "enable_thinking of the template"},
    {"priority", FieldType::kString, Treatment::kRead,
     "interactive: before other work of its account; normal; batch: when there is time, at the batch price"},
};

constexpr Field kFitFields[] = {
    {"base", FieldType::kString, Treatment::kRead, "a model of the store"},
    {"pinned", FieldType::kBoolean, Treatment::kRead, "true: beside all that is pinned"},
};

void ServeDeployments(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
                      const std::function<Result<Json>(Call&, platform::DeploymentBook&)>& work) {
  if (services.hooks.deployments == nullptr)
    return exchange->Send(ErrorResponse(501, "not_available", "This server keeps no deployments."));
  Serve(services, exchange, status, [&](Call& call) { return work(call, *services.hooks.deployments); });
}

Status ReadDeployment(Call& call, std::span<const Field> table) {
  TP_TRY(call.ReadBody(table));
  const auto defaults = call.body().find("defaults");
  if (defaults == call.body().end() || defaults->is_null()) return {};
  FieldReader reader(*defaults, kDefaultsFields, "defaults");
  TP_TRY(reader.Check());
  if (!reader.ignored().empty()) {
    const std::string name = reader.ignored().front().substr(0, 80);
    return Fail(BadField(name, fmt::format("There is no field \"{}\" here.", name), "unknown_field"));
  }
  if (const Json* priority = reader.Find("priority"); priority != nullptr && !priority->is_null()) {
    if (!compute::FindJobClass(priority->get<std::string>()))
      return Fail(BadField("defaults.priority", fmt::format("defaults.priority is {}; it can be interactive, "
                                                            "normal or batch.",
                                                            openai::Shown(*priority))));
  }
  const Json* stop = reader.Find("stop");
  if (stop == nullptr) return {};
  for (const Json& one : *stop) {
    if (!one.is_string())
      return Fail(BadField("defaults.stop",
                           fmt::format("defaults.stop holds {}, which is no text.", openai::Shown(one))));
  }
  return {};
}

Json CallersJson(const std::vector<platform::DeploymentCaller>& callers) {
  Json out = Json::array();
  for (const auto& one : callers) {
    out.push_back({{"organisation", one.organisation},
                   {"workspace", one.workspace},
                   {"member", one.member},
                   {"key", one.key},
                   {"requests", one.requests},
                   {"last_used_at", one.last_ms / 1000}});
  }
  return out;
}

// Who called it, and when, is the operator's to see: others' callers are among them.
Json DeploymentJson(Call& call, const platform::DeploymentBook& book, const platform::DeploymentSpec& spec) {
  const bool is_operator = call.caller.principal.is_operator;
  Json out = platform::DeploymentSpecJson(spec);
  if (!is_operator) out.erase("created_by");
  const auto status = call.services.inference.Find(spec.name);
  out["state"] = status ? Json(platform::DeploymentStateName(status->state)) : Json("missing");
  int64_t context = status ? status->model.context_length : 0;
  if (status && status->engine && status->engine->info.context_length > 0)
    context = status->engine->info.context_length;
  out["context_length"] = context;
  out["generates"] = status ? status->model.generates : true;
  out["created_at"] = spec.created_ms / 1000;
  out["updated_at"] = spec.updated_ms / 1000;
  if (is_operator) {
    const auto callers = book.CallersOf(spec.name);
    out["last_used_at"] = callers.empty() ? Json(nullptr) : Json(callers.front().last_ms / 1000);
    out["used_by"] = CallersJson(callers);
  }
  return out;
}

Json FitJson(const platform::DeploymentFit& fit) {
  return {{"base", fit.base},
          {"fits", fit.fits},
          {"needed_bytes", fit.needed_bytes},
          {"pool_bytes", fit.pool_bytes},
          {"pinned_bytes", fit.pinned_bytes},
          {"nearest", fit.nearest.empty() ? Json(nullptr) : Json(fit.nearest)}};
}

// Puts the stored model's id into the spec.
Status CheckFit(Call& call, platform::DeploymentSpec& spec) {
  TP_ASSIGN(const platform::DeploymentFit fit, call.services.inference.CheckDeployment(spec));
  spec.base = fit.base;
  if (fit.fits || call.Boolean("force").value_or(false)) return {};
  const auto gib = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  return Fail(
      ErrorKind::kConflict, "does_not_fit",
      fmt::format(
          "{} needs {:.2f} GiB; the pool has {:.2f} GiB{}{}. \"force\": true deploys it all the same.",
          fit.base, gib(fit.needed_bytes), gib(fit.pool_bytes),
          spec.pinned && fit.pinned_bytes > 0
              ? fmt::format(", of which {:.2f} GiB are pinned", gib(fit.pinned_bytes))
              : std::string(),
          fit.nearest.empty() ? std::string() : fmt::format("; the largest that fits is {}", fit.nearest)),
      "base");
}

Result<std::shared_ptr<const platform::DeploymentSpec>> FindVisible(Call& call,
                                                                    const platform::DeploymentBook& book) {
  auto spec = book.Find(call.Id());
  const platform::Principal& who = call.caller.principal;
  if (spec && (who.MayUseModel(spec->name) || who.MayUseModel(spec->base))) return spec;
  return Fail(ErrorKind::kNotFound, "deployment_not_found",
              fmt::format("There is no deployment \"{}\" that you may see.", call.Id().substr(0, 128)),
              "name");
}

}  // namespace

void ListDeployments(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeDeployments(services, exchange, 200, [](Call& call, platform::DeploymentBook& book) -> Result<Json> {
    TP_ASSIGN(const platform::Page page, call.Page());
    const platform::DeploymentPage listed = book.List(page.after, page.limit);
    const platform::Principal& who = call.caller.principal;
    Json data = Json::array();
    for (const auto& spec : listed.deployments) {
      if (who.MayUseModel(spec->name) || who.MayUseModel(spec->base))
        data.push_back(DeploymentJson(call, book, *spec));
    }
    return ListJson(std::move(data), listed.next);
  });
}

void CreateDeployment(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeDeployments(services, exchange, 201, [](Call& call, platform::DeploymentBook& book) -> Result<Json> {
    TP_TRY(ReadDeployment(call, kDeploymentFields));
    TP_TRY(call.Required("name"));
    TP_TRY(call.Required("base"));
    platform::DeploymentSpec spec = platform::DeploymentSpecOf(call.body());
    TP_TRY(platform::CheckDeploymentSpec(spec));
    TP_TRY(CheckFit(call, spec));
    TP_ASSIGN(const platform::DeploymentSpec made, book.Create(call.caller.actor, std::move(spec)));
    return DeploymentJson(call, book, made);
  });
}

void GetDeployment(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeDeployments(services, exchange, 200, [](Call& call, platform::DeploymentBook& book) -> Result<Json> {
    TP_ASSIGN(const auto spec, FindVisible(call, book));
    return DeploymentJson(call, book, *spec);
  });
}

// A merge patch (RFC 7396): what is null is unset, what is absent stays.
void ChangeDeployment(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeDeployments(services, exchange, 200, [](Call& call, platform::DeploymentBook& book) -> Result<Json> {
    TP_TRY(ReadDeployment(call, kDeploymentChangeFields));
    TP_ASSIGN(const auto now, FindVisible(call, book));
    const auto patched = [&](const platform::DeploymentSpec& spec) {
      Json json = platform::DeploymentSpecJson(spec);
      json.merge_patch(call.body());
      platform::DeploymentSpec out = platform::DeploymentSpecOf(json);
      if (out.base.empty()) out.base = spec.base;
      out.created_ms = spec.created_ms;
      return out;
    };
    platform::DeploymentSpec wanted = patched(*now);
    TP_TRY(platform::CheckDeploymentSpec(wanted));
    TP_TRY(CheckFit(call, wanted));
    TP_ASSIGN(const platform::DeploymentSpec changed,
              book.Change(call.caller.actor, now->name, [&](platform::DeploymentSpec& spec) -> Status {
                spec = patched(spec);
                if (call.Has("base")) spec.base = wanted.base;
                return {};
              }));
    return DeploymentJson(call, book, changed);
  });
}

void DeleteDeployment(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeDeployments(services, exchange, 200, [](Call& call, platform::DeploymentBook& book) -> Result<Json> {
    const auto callers = book.CallersOf(call.Id());
    TP_ASSIGN(const platform::DeploymentSpec gone, book.Delete(call.caller.actor, call.Id()));
    return Json{{"name", gone.name}, {"deleted", true}, {"used_by", CallersJson(callers)}};
  });
}

void CheckDeploymentFit(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeDeployments(services, exchange, 200, [](Call& call, platform::DeploymentBook&) -> Result<Json> {
    TP_TRY(call.ReadBody(kFitFields));
    platform::DeploymentSpec spec;
    TP_ASSIGN(spec.base, call.Required("base"));
    spec.pinned = call.Boolean("pinned").value_or(false);
    return call.services.inference.CheckDeployment(spec).map(FitJson);
  });
}

// ---- schemas ------------------------------------------------------------------------------------------

Json DeploymentRequestSchema() {
  Json schema = openai::SchemaOf(kDeploymentFields, {"name", "base"});
  schema["properties"]["defaults"] = openai::SchemaOf(kDefaultsFields, {});
  schema["properties"]["defaults"]["properties"]["stop"]["items"]["type"] = "string";
  return schema;
}

Json DeploymentChangeSchema() {
  Json schema = openai::SchemaOf(kDeploymentChangeFields, {});
  schema["properties"]["defaults"] = DeploymentRequestSchema()["properties"]["defaults"];
  return schema;
}

Json DeploymentSchema() {
  Json schema = Json::parse(R"json({
    "type": "object",
    "properties": {
      "name": {"type": "string"}, "base": {"type": "string"}, "description": {"type": "string"},
      "chat_template": {"type": "string"}, "system_prompt": {"type": "string"},
      "defaults": {"type": "object", "properties": {
        "temperature": {"type": ["number", "null"]}, "top_p": {"type": ["number", "null"]},
        "top_k": {"type": ["integer", "null"]}, "min_p": {"type": ["number", "null"]},
        "repetition_penalty": {"type": ["number", "null"]}, "presence_penalty": {"type": ["number", "null"]},
        "frequency_penalty": {"type": ["number", "null"]}, "max_tokens": {"type": ["integer", "null"]},
        "reasoning_budget": {"type": ["integer", "null"]}, "thinking": {"type": ["boolean", "null"]},
        "priority": {"enum": ["interactive", "normal", "batch", null]},
        "stop": {"type": "array", "items": {"type": "string"}}}},
      "max_context_tokens": {"type": "integer"}, "max_output_tokens": {"type": "integer"},
      "pinned": {"type": "boolean"}, "idle_ttl_s": {"type": ["number", "null"]},
      "min_resident_s": {"type": ["number", "null"]}, "ttft_s": {"type": ["number", "null"]},
      "tpot_s": {"type": ["number", "null"]}, "weight": {"type": ["number", "null"]},
      "created_by": {"type": "string", "optional": true, "description": "for operators"},
      "state": {"enum": ["stored", "loading", "ready", "failed", "quarantined", "missing"], "description": "of the base model; missing: it has left the store"},
      "context_length": {"type": "integer", "description": "of a request"}, "generates": {"type": "boolean"},
      "created_at": {"type": "integer", "description": "seconds since 1970"},
      "updated_at": {"type": "integer", "description": "seconds since 1970"},
      "last_used_at": {"type": ["integer", "null"], "optional": true, "description": "seconds since 1970; for operators"}}
  })json");
  schema["properties"]["used_by"] = Json::parse(R"json({
    "type": "array", "optional": true, "description": "the last 16 callers, newest first; for operators",
    "items": {"type": "object", "properties": {
      "organisation": {"type": "string"}, "workspace": {"type": "string"}, "member": {"type": "string"},
      "key": {"type": "string"}, "requests": {"type": "integer"}, "last_used_at": {"type": "integer"}}}
  })json");
  return schema;
}

Json DeploymentListSchema() { return ListSchemaOf(DeploymentSchema()); }

Json DeploymentDeletedSchema() {
  Json schema = Json::parse(
      R"json({"type": "object", "properties": {"name": {"type": "string"}, "deleted": {"type": "boolean"}}})json");
  schema["properties"]["used_by"] = DeploymentSchema()["properties"]["used_by"];
  return schema;
}

Json DeploymentFitRequestSchema() { return openai::SchemaOf(kFitFields, {"base"}); }

Json DeploymentFitSchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {
      "base": {"type": "string"}, "fits": {"type": "boolean"},
      "needed_bytes": {"type": "integer", "description": "weights, an eighth of them and 64 MiB; of files until the model was loaded once"},
      "pool_bytes": {"type": "integer"},
      "pinned_bytes": {"type": "integer", "description": "needed by other models that are pinned"},
      "nearest": {"type": ["string", "null"], "description": "the largest stored model of its kind that fits"}}
  })json");
}

}  // namespace tidepool::gateway::native
