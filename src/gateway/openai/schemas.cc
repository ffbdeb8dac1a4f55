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

Json BilledSchema() {
  return Parsed(R"({
    "type": "object",
    "properties": {
      "amount": {"type": "string", "description": "a decimal of its currency"}, "currency": {"type": "string"},
      "billing": {"enum": ["paid", "free", "mixed", "unpriced", "waived"]}, "free_tokens": {"type": "integer"}}
  })");
}

Json ProgressSchema() {
  return Parsed(R"({
    "type": "object",
    "properties": {
      "phase": {"enum": ["queued", "loading", "prefill"]},
      "queue_position": {"type": "integer", "optional": true, "description": "of phase queued"},
      "share": {"type": "number", "optional": true, "description": "of the other phases, 0 to 1"}}
  })");
}

Json UsageSchema() {
  return Parsed(R"({
    "type": "object",
    "properties": {
      "prompt_tokens": {"type": "integer"}, "completion_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"},
      "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"}}},
      "completion_tokens_details": {"type": "object", "properties": {"reasoning_tokens": {"type": "integer"}}}}
  })");
}

Json ChatEventsSchema() {
  Json schema = Parsed(R"({
    "type": "object", "description": "of /v1/chat/completions and /v1/completions with \"stream\": true",
    "properties": {
      "chunk": {"type": "object", "description": "events without a name", "properties": {
        "id": {"type": "string", "optional": true}, "model": {"type": "string", "optional": true},
        "choices": {"type": "array", "optional": true, "items": {"type": "object", "properties": {
          "index": {"type": "integer"},
          "delta": {"type": "object", "optional": true, "description": "of a chat", "properties": {
            "content": {"type": ["string", "null"], "optional": true}, "reasoning_content": {"type": "string", "optional": true}}},
          "text": {"type": "string", "optional": true, "description": "of a completion"},
          "logprobs": {"optional": true, "oneOf": [
            {"type": "object", "description": "of a chat", "properties": {"content": {"type": ["array", "null"], "items": {
              "type": "object", "properties": {
                "token": {"type": "string"}, "logprob": {"type": "number"},
                "top_logprobs": {"type": "array", "optional": true, "items": {"type": "object", "properties": {"token": {"type": "string"}, "logprob": {"type": "number"}}}}}}}}},
            {"type": "object", "description": "of a completion", "properties": {
              "tokens": {"type": "array", "items": {"type": "string"}},
              "token_logprobs": {"type": "array", "items": {"type": ["number", "null"]}},
              "top_logprobs": {"type": "array", "items": {"type": ["object", "null"], "additionalProperties": {"type": "number"}}}}},
            {"type": "null"}]},
          "finish_reason": {"type": ["string", "null"], "optional": true}}}},
        "error": {"type": "object", "optional": true, "description": "the end of a stream that failed", "properties": {
          "message": {"type": "string"}, "code": {"type": ["string", "null"]}, "param": {"type": ["string", "null"]}}}}}}
  })");
  Json usage = UsageSchema();
  usage["type"] = Json::array({"object", "null"});
  usage["optional"] = true;
  schema["properties"]["chunk"]["properties"]["usage"] = std::move(usage);
  schema["properties"]["progress"] = ProgressSchema();
  schema["properties"]["cost"] = BilledSchema();
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
    "type": "object", "required": ["data", "usage"],
    "properties": {
      "object": {"const": "list"},
      "data": {"type": "array", "items": {"type": "object", "required": ["index", "embedding"], "properties": {
        "object": {"const": "embedding"}, "index": {"type": "integer"},
        "embedding": {"type": ["array", "string"], "items": {"type": "number"}}}}},
      "model": {"type": "string"},
      "usage": {"type": "object", "required": ["prompt_tokens"], "properties": {
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
