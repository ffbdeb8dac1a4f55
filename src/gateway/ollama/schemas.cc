// JSON schemas of the replies, for the OpenAPI document.
#include "gateway/ollama/handlers.h"
#include "gateway/ollama/requests.h"

namespace tidepool::gateway::ollama {
namespace {

Json SchemaText(const char* text) { return Json::parse(text); }

constexpr const char* kEnd = R"({
  "model": {"type": "string"}, "created_at": {"type": "string"}, "done": {"type": "boolean"},
  "done_reason": {"enum": ["stop", "length", "load", "unload"]},
  "total_duration": {"type": "integer", "description": "Nanoseconds, as all durations"},
  "load_duration": {"type": "integer"}, "prompt_eval_count": {"type": "integer"},
  "prompt_eval_duration": {"type": "integer"}, "eval_count": {"type": "integer"},
  "eval_duration": {"type": "integer"}, "logprobs": {"type": "array"}
})";

Json Answer(const char* properties) {
  Json schema{{"type", "object"}, {"properties", SchemaText(kEnd)}};
  schema["properties"].update(SchemaText(properties));
  return schema;
}

constexpr const char* kDetails = R"({"type": "object", "properties": {
  "parent_model": {"type": "string"}, "format": {"type": "string"}, "family": {"type": "string"},
  "families": {"type": "array", "items": {"type": "string"}}, "parameter_size": {"type": "string"},
  "quantization_level": {"type": "string"}}})";

Json ModelList(const char* properties) {
  Json item{{"type", "object"}, {"properties", SchemaText(properties)}};
  item["properties"]["details"] = SchemaText(kDetails);
  Json schema{{"type", "object"}};
  schema["properties"]["models"]["type"] = "array";
  schema["properties"]["models"]["items"] = std::move(item);
  return schema;
}

}  // namespace

Json ChatReplySchema() {
  return Answer(R"({"message": {"type": "object", "properties": {
    "role": {"const": "assistant"}, "content": {"type": "string"}, "thinking": {"type": "string"},
    "tool_calls": {"type": "array", "items": {"type": "object", "properties": {
      "id": {"type": "string"},
      "function": {"type": "object", "properties": {
        "index": {"type": "integer"}, "name": {"type": "string"}, "arguments": {}}}}}}}}})");
}
Json GenerateReplySchema() {
  return Answer(R"({"response": {"type": "string"}, "thinking": {"type": "string"}})");
}
Json EmbedReplySchema() {
  return SchemaText(R"({"type": "object", "properties": {
    "model": {"type": "string"},
    "embeddings": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    "total_duration": {"type": "integer"}, "load_duration": {"type": "integer"},
    "prompt_eval_count": {"type": "integer"}}})");
}
Json EmbeddingsReplySchema() {
  return SchemaText(
      R"({"type": "object", "properties": {"embedding": {"type": "array", "items": {"type": "number"}}}})");
}
Json TagsSchema() {
  return ModelList(
      R"({"name": {"type": "string"}, "model": {"type": "string"}, "modified_at": {"type": "string"},
    "size": {"type": "integer"}, "digest": {"type": "string"}})");
}
Json RunningSchema() {
  return ModelList(R"({"name": {"type": "string"}, "model": {"type": "string"}, "size": {"type": "integer"},
    "digest": {"type": "string"}, "expires_at": {"type": "string"}, "size_vram": {"type": "integer"},
    "context_length": {"type": "integer"}})");
}
Json ShowSchema() {
  Json schema = SchemaText(R"({"type": "object", "properties": {
    "license": {"type": "string"}, "modelfile": {"type": "string"}, "parameters": {"type": "string"},
    "template": {"type": "string"}, "model_info": {"type": "object"},
    "capabilities": {"type": "array", "items": {"enum": ["completion", "embedding", "rerank", "tools", "thinking"]}},
    "modified_at": {"type": "string"}}})");
  schema["properties"]["details"] = SchemaText(kDetails);
  return schema;
}
Json VersionSchema() {
  return SchemaText(R"({"type": "object", "properties": {
    "version": {"type": "string", "description": "of Ollama, whose fields are spoken"},
    "server": {"type": "string"}}})");
}
Json PullSchema() {
  return SchemaText(R"({"type": "object", "properties": {"status": {"type": "string"}}})");
}
Json ErrorSchema() {
  return SchemaText(R"({"type": "object", "properties": {"error": {"type": "string"}}})");
}

}  // namespace tidepool::gateway::ollama
