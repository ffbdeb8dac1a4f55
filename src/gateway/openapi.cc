#include <fmt/format.h>

#include <cctype>

#include "gateway/bailian/handlers.h"
#include "gateway/bailian/reply.h"
#include "gateway/gateway.h"
#include "gateway/native/conversations.h"
#include "gateway/native/handlers.h"
#include "gateway/ollama/handlers.h"
#include "gateway/ollama/reply.h"
#include "gateway/openai/handlers.h"
#include "gateway/router.h"

namespace tidepool::gateway {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kErrorSchema = R"({
  "type": "object",
  "properties": {"error": {"type": "object", "properties": {
    "message": {"type": "string"}, "type": {"type": "string"},
    "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}}}
})";

// "/v1/models/{id...}" -> "/v1/models/{id}": OpenAPI has no greedy parameters.
std::string PathOf(std::string_view pattern) {
  std::string path(pattern);
  if (const size_t dots = path.find("...}"); dots != std::string::npos) path.erase(dots, 3);
  return path;
}

// "POST /v1/chat/completions" -> "post_v1_chat_completions"
std::string OperationId(const Route& route) {
  std::string id;
  for (const char c : route.method)
    id.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  bool gap = true;
  for (const char c : PathOf(route.pattern)) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      if (gap) id.push_back('_');
      gap = false;
      id.push_back(c);
    } else {
      gap = true;
    }
  }
  return id;
}

Json Parameters(std::string_view pattern, std::string_view query) {
  Json parameters = Json::array();
  for (size_t open = pattern.find('{'); open != std::string_view::npos; open = pattern.find('{', open + 1)) {
    std::string name(pattern.substr(open + 1, pattern.find('}', open) - open - 1));
    const bool greedy = name.ends_with("...");
    if (greedy) name.resize(name.size() - 3);
    Json parameter;
    parameter["name"] = name;
    parameter["in"] = "path";
    parameter["required"] = true;
    parameter["schema"]["type"] = "string";
    if (greedy) parameter["description"] = "May hold slashes, raw or as %2F";
    parameters.push_back(std::move(parameter));
  }
  while (!query.empty()) {
    const size_t space = query.find(' ');
    const std::string_view item = query.substr(0, space);
    query = space == std::string_view::npos ? std::string_view() : query.substr(space + 1);
    const size_t colon = item.find(':');
    Json parameter;
    parameter["name"] = item.substr(0, colon);
    parameter["in"] = "query";
    parameter["schema"]["type"] =
        colon == std::string_view::npos ? std::string_view("string") : item.substr(colon + 1);
    parameters.push_back(std::move(parameter));
  }
  return parameters;
}

// Replies of Tidepool's own API hold every field that their schema names, unless it says "optional": pages
// take their types from here, and the browser tests hold every reply against it.
void RequireFields(Json& schema) {
  if (schema.is_array()) {
    for (Json& one : schema) RequireFields(one);
    return;
  }
  if (!schema.is_object()) return;
  if (const auto properties = schema.find("properties"); properties != schema.end()) {
    Json required = Json::array();
    for (auto& [name, property] : properties->items()) {
      if (property.erase("optional") == 0) required.push_back(name);
      RequireFields(property);
    }
    if (!schema.contains("required") && !required.empty()) schema["required"] = std::move(required);
  }
  for (const char* name : {"items", "oneOf", "additionalProperties"}) {
    if (const auto inner = schema.find(name); inner != schema.end()) RequireFields(*inner);
  }
}
bool IsOwn(const Route& route) {
  return route.errors == nullptr &&
         (route.pattern.starts_with("/api/v1/") || route.tag == "text" || route.tag == "server");
}

Json ErrorReply(const Route& route, std::string_view description) {
  std::string_view schema = "Error";
  if (route.errors == static_cast<ErrorShape>(ollama::ErrorReply)) schema = "OllamaError";
  if (route.errors == bailian::ErrorReply) schema = "BailianError";
  Json reply;
  reply["description"] = description;
  reply["content"]["application/json"]["schema"]["$ref"] = fmt::format("#/components/schemas/{}", schema);
  return reply;
}

Json Operation(const Route& route) {
  Json operation;
  operation["operationId"] = OperationId(route);
  operation["tags"] = Json::array({route.tag});
  operation["summary"] = route.summary;
  if (route.access == platform::Role::kNone) operation["security"] = Json::array();
  if (route.access != platform::Role::kNone) {
    operation["description"] = fmt::format("Least role: {}.", platform::RoleName(route.access));
    operation["x-least-role"] = platform::RoleName(route.access);
  }
  if (Json parameters = Parameters(route.pattern, route.query); !parameters.empty())
    operation["parameters"] = std::move(parameters);
  if (route.request != nullptr) {
    operation["requestBody"]["required"] = route.request().contains("required");
    operation["requestBody"]["content"]["application/json"]["schema"] = route.request();
  }
  Json& success = operation["responses"][std::to_string(route.success)];
  success["description"] = "Success";
  Json schema = route.response != nullptr ? route.response() : Json{{"type", "object"}};
  if (IsOwn(route)) RequireFields(schema);
  if (route.content_type != "application/json") schema = Json{{"type", "string"}};
  success["content"][std::string(route.content_type)]["schema"] = std::move(schema);
  if (TakesParameter(route, "format")) {
    // Exports: lists as a file, and conversations also as JSON.
    const bool list = route.content_type == "application/json";
    success["content"][list ? "text/csv" : "application/json"]["schema"]["type"] = list ? "string" : "object";
    for (const char* name : {"Tidepool-Rows", "Tidepool-Next-Cursor"}) {
      if (list) success["headers"][name]["schema"]["type"] = "string";
    }
  }
  if (route.streams && route.tag == "ollama") {
    success["content"]["application/x-ndjson"]["schema"] =
        Json{{"type", "string"}, {"description", "Lines of such objects, unless \"stream\" is false"}};
  } else if (route.streams) {
    success["content"]["text/event-stream"]["schema"] = Json{
        {"type", "object"},
        {"properties",
         {{"data", {{"type", "string"}}}, {"event", {{"type", "string"}}}, {"id", {{"type", "string"}}}}},
        {"description",
         "With \"stream\": true: chunks as data lines, then [DONE]. With the header Tidepool-Progress: 1 "
         "also `progress` events (queue position, loading and prefill shares), and at the end `cost`: what "
         "it came to. The data of each event, by its name: ChatEvents, ConversationEvents, PoolEvents among "
         "the components."}};
  }
  if (route.request != nullptr)
    operation["responses"]["400"] = ErrorReply(route, "The request is wrong; param names the field");
  if (route.access != platform::Role::kNone)
    operation["responses"]["401"] = ErrorReply(route, "No key, or a wrong one");
  if (route.inference)
    operation["responses"]["503"] = ErrorReply(route, "Stopping, loading failed, or no memory");
  operation["responses"]["default"] = ErrorReply(route, "Any other error");
  return operation;
}

}  // namespace

Json OpenApiDocument() {
  Json document;
  document["openapi"] = "3.1.0";
  document["info"]["title"] = "Tidepool";
  document["info"]["version"] = "1";
  document["info"]["description"] =
      "An open AI cloud in one server. Every reply has the header X-Request-Id; fields of a request that "
      "have no effect "
      "are named in the header Tidepool-Ignored. What is under /v1 is under /compatible-mode/v1 too.";
  document["info"]["license"]["name"] = "Apache-2.0";
  document["security"] = Json::array({Json{{"key", Json::array()}}, Json{{"session", Json::array()}}});
  document["components"]["securitySchemes"]["key"]["type"] = "http";
  document["components"]["securitySchemes"]["key"]["scheme"] = "bearer";
  document["components"]["securitySchemes"]["session"]["type"] = "apiKey";
  document["components"]["securitySchemes"]["session"]["in"] = "cookie";
  document["components"]["securitySchemes"]["session"]["name"] = "tidepool_session";
  document["components"]["schemas"]["Error"] = Json::parse(kErrorSchema);
  document["components"]["schemas"]["OllamaError"] = ollama::ErrorSchema();
  document["components"]["schemas"]["BailianError"] = bailian::ErrorSchema();
  for (const auto& [name, events] : {std::pair("ChatEvents", openai::ChatEventsSchema()),
                                     std::pair("ConversationEvents", native::ConversationEventsSchema()),
                                     std::pair("PoolEvents", native::PoolEventsSchema())}) {
    Json& schema = document["components"]["schemas"][name];
    schema = events;
    RequireFields(schema);
    schema.erase("required");  // one at a time
  }
  for (const Route& route : Routes()) {
    std::string method(route.method);
    for (char& c : method) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    document["paths"][PathOf(route.pattern)][method] = Operation(route);
  }
  return document;
}

}  // namespace tidepool::gateway
