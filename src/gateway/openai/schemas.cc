// JSON schemas of the replies, for the OpenAPI document.
#include "gateway/openai/handlers.h"

namespace tidepool::gateway::openai {

using Json = nlohmann::ordered_json;

namespace {

Json Parsed(const char* text) { return Json::parse(text); }

constexpr const char* kUsage = R"({
  "type": "object",
  "properties": {
    "prompt_tokens": {"type": "integer"},
    "completion_tokens": {"type": "integer"},
    "total_tokens": {"type": "integer"},
    "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"}}},
    "completion_tokens_details": {"type": "object", "properties": {"reasoning_tokens": {"type": "integer"}}}
  }
})";

}  // namespace

Json ChatReplySchema() {
  Json schema = Parsed(R"({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "object": {"const": "chat.completion"}, "created": {"type": "integer"},
      "model": {"type": "string"},
      "choices": {"type": "array", "items": {"type": "object", "properties": {
        "index": {"type": "integer"},
        "message": {"type": "object", "properties": {
          "role": {"const": "assistant"}, "content": {"type": ["string", "null"]},
          "tool_calls": {"type": "array", "items": {"type": "object", "properties": {
            "id": {"type": "string"}, "type": {"const": "function"},
            "function": {"type": "object", "properties": {
              "name": {"type": "string"}, "arguments": {"type": "string"}}}}}},
          "reasoning_content": {"type": "string"}, "refusal": {"type": "null"}}},
        "logprobs": {"type": ["object", "null"]},
        "finish_reason": {"enum": ["stop", "length", "tool_calls"]}}}}
    }
  })");
  schema["properties"]["usage"] = Parsed(kUsage);
  return schema;
}

Json CompletionReplySchema() {
  Json schema = Parsed(R"({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "object": {"const": "text_completion"}, "created": {"type": "integer"},
      "model": {"type": "string"},
      "choices": {"type": "array", "items": {"type": "object", "properties": {
        "index": {"type": "integer"}, "text": {"type": "string"},
        "logprobs": {"type": ["object", "null"]},
        "finish_reason": {"enum": ["stop", "length"]}}}}
    }
  })");
  schema["properties"]["usage"] = Parsed(kUsage);
  return schema;
}

Json EmbeddingReplySchema() {
  return Parsed(R"({
    "type": "object",
    "properties": {
      "object": {"const": "list"},
      "data": {"type": "array", "items": {"type": "object", "properties": {
        "object": {"const": "embedding"}, "index": {"type": "integer"},
        "embedding": {"type": ["array", "string"], "items": {"type": "number"}}}}},
      "model": {"type": "string"},
      "usage": {"type": "object", "properties": {
        "prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}}
    }
  })");
}

Json ModelSchema() {
  return Parsed(R"({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"},
      "owned_by": {"type": "string"},
      "base_model": {"type": "string", "description": "of a deployment"},
      "state": {"enum": ["stored", "loading", "ready", "failed", "quarantined"]},
      "context_length": {"type": "integer", "description": "prompt and answer together; 0: not known"},
      "max_model_len": {"type": "integer", "description": "another name of context_length"},
      "max_output_tokens": {"type": "integer", "description": "of models that answer"},
      "capabilities": {"type": "array", "description": "tools: its chat template shows them; thinking: it marks its reasoning",
        "items": {"enum": ["chat", "completion", "structured_output", "tools", "thinking", "embeddings", "rerank"]}}
    }
  })");
}

Json ModelListSchema() {
  Json schema = Parsed(R"({"type": "object", "properties": {"object": {"const": "list"}}})");
  schema["properties"]["data"]["type"] = "array";
  schema["properties"]["data"]["items"] = ModelSchema();
  return schema;
}

Json TokenizeReplySchema() {
  return Parsed(R"({
    "type": "object",
    "properties": {
      "model": {"type": "string"}, "count": {"type": "integer"},
      "tokens": {"type": "array", "items": {"type": "integer"}}
    }
  })");
}

Json DetokenizeReplySchema() {
  return Parsed(
      R"({"type": "object", "properties": {"model": {"type": "string"}, "text": {"type": "string"}}})");
}

}  // namespace tidepool::gateway::openai
