#include "gateway/anthropic/handlers.h"

#include <algorithm>
#include <charconv>

#include "gateway/anthropic/errors.h"
#include "gateway/anthropic/reply.h"
#include "gateway/anthropic/requests.h"
#include "gateway/inference_call.h"
#include "gateway/model_card.h"
#include "gateway/router.h"
#include "platform/ledger/price_book.h"

namespace tidepool::gateway::anthropic {
namespace {

void SendError(const std::shared_ptr<Exchange>& exchange, const Error& error) {
  exchange->Send(ErrorReply(error, exchange->request()));
}

HttpResponse Answer(const Exchange& exchange, const Json& body,
                    const std::vector<std::string>& ignored = {}) {
  HttpResponse response = JsonResponse(body);
  response.headers.push_back({"request-id", exchange.request().id});
  if (!ignored.empty()) response.headers.push_back({"Tidepool-Ignored", IgnoredHeader(ignored)});
  return response;
}

// The body as a request that this caller may make.
Result<ParsedMessages> ReadRequest(Services& services, const HttpRequest& http,
                                   Result<ParsedMessages> (*parse)(const Json&)) {
  TP_ASSIGN(const Json body, JsonBody(services, http));
  TP_ASSIGN(ParsedMessages parsed, parse(body));
  FillCaller(parsed.request, services, http);
  TP_TRY(CheckModel(services, http, parsed.request.model));
  return parsed;
}

Json Supported(bool supported) { return Json{{"supported", supported}}; }

// All of Anthropic's names: its clients read each of them.
Json CapabilitiesOf(const ModelCard& card) {
  Json out;
  for (const char* name : {"batch", "citations", "code_execution", "context_management"})
    out[name] = Supported(false);
  out["effort"] = Supported(card.thinks);
  for (const char* level : {"low", "medium", "high", "xhigh", "max"})
    out["effort"][level] = Supported(card.thinks);
  for (const char* name : {"image_input", "pdf_input"}) out[name] = Supported(false);
  out["server_tools"] =
      Json{{"supported", false}, {"code_execution", Supported(false)}, {"web_search", Supported(false)}};
  out["structured_outputs"] = Supported(card.generates);
  out["thinking"] = Supported(card.thinks);
  out["thinking"]["types"] = Json{{"adaptive", Supported(card.thinks)},
                                  {"between_tools", Supported(false)},
                                  {"disabled", Supported(true)},
                                  {"enabled", Supported(card.thinks)}};
  // Not of Anthropic's API, where every model calls tools.
  out["tools"] = Supported(card.tools);
  return out;
}

Json ModelOf(const Services& services, const platform::DeploymentStatus& status) {
  const ModelCard card = CardOf(services, status);
  Json out;
  out["type"] = "model";
  out["id"] = status.name();
  out["display_name"] = status.id;
  out["created_at"] = platform::TimeText(status.model.created * 1000);
  out["lifecycle"] = "active";
  out["max_input_tokens"] = card.context_length;
  out["max_tokens"] = card.context_length;
  out["capabilities"] = CapabilitiesOf(card);
  return out;
}

}  // namespace

void Messages(Services& services, std::shared_ptr<Exchange> exchange) {
  auto parsed = ReadRequest(services, exchange->request(), ParseMessages);
  if (!parsed) return SendError(exchange, parsed.error());
  const auto reply = MakeMessageReply(exchange, *parsed);
  Attach(exchange, reply, services.inference.Chat(std::move(parsed->request), reply));
}

void CountTokens(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto parsed = ReadRequest(services, exchange->request(), ParseCountTokens);
  if (!parsed) return SendError(exchange, parsed.error());
  const auto tokens = services.inference.TokenizeChat(parsed->request);
  if (!tokens) return SendError(exchange, tokens.error());
  exchange->Send(Answer(*exchange, Json{{"input_tokens", tokens->size()}}, parsed->ignored));
}

bool IsAnthropic(const HttpRequest& request) {
  return request.Header("anthropic-version") != nullptr || request.target.starts_with("/anthropic/");
}

void ListModels(Services& services, std::shared_ptr<Exchange> exchange) {
  const HttpRequest& http = exchange->request();
  const auto query = ParseQuery(http.target, "limit:integer after_id before_id beta");
  if (!query) return SendError(exchange, query.error());
  size_t limit = 20;
  std::string after, before;
  for (const auto& [name, value] : *query) {
    if (name == "after_id") after = value;
    if (name == "before_id") before = value;
    if (name != "limit") continue;
    const auto [end, problem] = std::from_chars(value.data(), value.data() + value.size(), limit);
    if (problem != std::errc() || end != value.data() + value.size() || limit < 1 || limit > 1000)
      return SendError(exchange, BadField("limit", "limit must be a whole number from 1 to 1000."));
  }
  if (!after.empty() && !before.empty())
    return SendError(exchange, BadField("before_id", "Send one of after_id and before_id."));
  std::vector<platform::DeploymentStatus> all = services.inference.ListCallable();
  std::erase_if(all, [&](const auto& status) { return !platform::MayUse(http.principal, status); });
  const auto place = [&](const std::string& id) {
    return std::find_if(all.begin(), all.end(), [&](const auto& status) { return status.name() == id; });
  };
  auto first = all.begin(), last = all.end();
  for (const std::string& cursor : {after, before}) {
    if (!cursor.empty() && place(cursor) == all.end())
      return SendError(exchange,
                       BadField(after.empty() ? "before_id" : "after_id", "There is no such model."));
  }
  if (!after.empty()) first = place(after) + 1;
  if (!before.empty()) last = place(before);
  const bool more = static_cast<size_t>(last - first) > limit;
  if (more && before.empty()) last = first + static_cast<std::ptrdiff_t>(limit);
  if (more && !before.empty()) first = last - static_cast<std::ptrdiff_t>(limit);
  Json body;
  body["data"] = Json::array();
  for (auto it = first; it != last; ++it) body["data"].push_back(ModelOf(services, *it));
  body["has_more"] = more;
  body["first_id"] = first == last ? Json(nullptr) : Json(first->name());
  body["last_id"] = first == last ? Json(nullptr) : Json((last - 1)->name());
  exchange->Send(Answer(*exchange, body));
}

void GetModel(Services& services, std::shared_ptr<Exchange> exchange) {
  const HttpRequest& http = exchange->request();
  const auto status = services.inference.Find(http.PathValue("id"));
  if (!status) return SendError(exchange, status.error());
  if (auto allowed = CheckModel(services, http, status->name()); !allowed)
    return SendError(exchange, allowed.error());
  exchange->Send(Answer(*exchange, ModelOf(services, *status)));
}

Json MessageReplySchema() {
  return Json::parse(R"({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "type": {"const": "message"}, "role": {"const": "assistant"}, "model": {"type": "string"},
      "content": {"type": "array", "items": {"type": "object", "properties": {
        "type": {"enum": ["text", "thinking", "tool_use"]}, "text": {"type": "string"}, "thinking": {"type": "string"},
        "signature": {"type": "string"}, "id": {"type": "string"}, "name": {"type": "string"}, "input": {"type": "object"}}}},
      "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
      "stop_sequence": {"type": ["string", "null"]},
      "usage": {"type": "object", "properties": {
        "input_tokens": {"type": "integer"}, "cache_creation_input_tokens": {"type": "integer"},
        "cache_read_input_tokens": {"type": "integer"}, "output_tokens": {"type": "integer"}}}
    }
  })");
}

Json CountReplySchema() {
  return Json::parse(R"({"type": "object", "properties": {"input_tokens": {"type": "integer"}}})");
}

Json ModelReplySchema() {
  return Json::parse(R"({
    "type": "object",
    "properties": {
      "type": {"const": "model"}, "id": {"type": "string"}, "display_name": {"type": "string"},
      "created_at": {"type": "string"}, "lifecycle": {"const": "active"},
      "max_input_tokens": {"type": "integer"}, "max_tokens": {"type": "integer"},
      "capabilities": {"type": "object", "description": "By Anthropic's names: {supported} each; and tools",
        "additionalProperties": {"type": "object", "properties": {"supported": {"type": "boolean"}}}}}
  })");
}

Json ModelListReplySchema() {
  Json schema = Json::parse(R"({"type": "object", "properties": {
    "data": {"type": "array"}, "has_more": {"type": "boolean"}, "first_id": {"type": ["string", "null"]},
    "last_id": {"type": ["string", "null"]}}})");
  schema["properties"]["data"]["items"] = ModelReplySchema();
  return schema;
}

}  // namespace tidepool::gateway::anthropic
