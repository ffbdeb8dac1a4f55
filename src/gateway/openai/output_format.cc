#include "gateway/openai/output_format.h"

#include <fmt/format.h>

namespace tidepool::gateway::openai {
namespace {

using platform::OutputFormat;

constexpr size_t kMaxChoiceStrings = 4096;

Error NotOf(std::string_view field, std::string_view what, const Json& value) {
  return BadField(field, fmt::format("{} must be {}, not {}.", field, what, Shown(value)), "invalid_type");
}

bool IsSchema(const Json& value) { return value.is_object() || value.is_boolean(); }

// Collects what the fields ask for; two of them contradict each other.
class FormatReader {
 public:
  Status Schema(std::string field, const Json& value) {
    // guided_json may also be the schema's text.
    Json schema = value;
    if (value.is_string())
      schema = Json::parse(value.get_ref<const std::string&>(), nullptr, /*allow_exceptions=*/false);
    if (!IsSchema(schema)) return Fail(NotOf(field, "a JSON schema", value));
    TP_TRY(Claim(std::move(field), OutputFormat::Kind::kJsonSchema));
    format.schema = std::move(schema);
    return {};
  }
  Status JsonObject(std::string field) { return Claim(std::move(field), OutputFormat::Kind::kJsonObject); }
  Status Text(std::string field, OutputFormat::Kind kind, const Json& value) {
    if (!value.is_string()) return Fail(NotOf(field, "a string", value));
    TP_TRY(Claim(std::move(field), kind));
    format.text = value.get<std::string>();
    return {};
  }
  Status Choices(std::string field, const Json& value) {
    if (!value.is_array()) return Fail(NotOf(field, "an array of strings", value));
    if (value.empty() || value.size() > kMaxChoiceStrings) {
      return Fail(BadField(field, fmt::format("{} must hold 1 to {} strings, not {}.", field,
                                              kMaxChoiceStrings, value.size())));
    }
    for (const Json& item : value) {
      if (!item.is_string()) return Fail(NotOf(field, "an array of strings", item));
    }
    TP_TRY(Claim(std::move(field), OutputFormat::Kind::kChoice));
    format.choices = value.get<std::vector<std::string>>();
    return {};
  }

  OutputFormat format;

 private:
  Status Claim(std::string field, OutputFormat::Kind kind) {
    if (format.kind != OutputFormat::Kind::kText) {
      return Fail(BadField(field, fmt::format("{} and {} both say what the answer must be; send one of them.",
                                              format.param, field)));
    }
    format.kind = kind;
    format.param = std::move(field);
    return {};
  }
};

Status ReadResponseFormat(const Json& value, FormatReader& out) {
  const Json type = value.value("type", Json());
  if (type == "text") return {};
  if (type == "json_object") {
    // (Some servers took a schema here before json_schema was there.)
    const auto schema = value.find("schema");
    if (schema != value.end() && !schema->is_null()) return out.Schema("response_format.schema", *schema);
    return out.JsonObject("response_format");
  }
  if (type != "json_schema") {
    return Fail(BadField(
        "response_format.type",
        fmt::format("response_format.type must be text, json_object or json_schema, not {}.", Shown(type))));
  }
  const auto holder = value.find("json_schema");
  if (holder == value.end() || !holder->is_object()) {
    return Fail(BadField("response_format.json_schema",
                         "response_format.json_schema must be an object with a name and a schema.",
                         "missing_field"));
  }
  const auto schema = holder->find("schema");
  if (schema == holder->end() || schema->is_null()) {
    return Fail(BadField("response_format.json_schema.schema",
                         "response_format.json_schema.schema is missing.", "missing_field"));
  }
  return out.Schema("response_format.json_schema.schema", *schema);
}

Status ReadStructuredOutputs(const Json& value, FormatReader& out) {
  using Kind = OutputFormat::Kind;
  const std::string prefix = "structured_outputs.";
  for (const auto& [key, item] : value.items()) {
    if (item.is_null()) continue;
    if (key == "json") {
      TP_TRY(out.Schema(prefix + key, item));
    } else if (key == "regex") {
      TP_TRY(out.Text(prefix + key, Kind::kRegex, item));
    } else if (key == "choice") {
      TP_TRY(out.Choices(prefix + key, item));
    } else if (key == "grammar") {
      TP_TRY(out.Text(prefix + key, Kind::kGrammar, item));
    } else if (key == "json_object") {
      if (item == true) TP_TRY(out.JsonObject(prefix + key));
    } else {
      return Fail(BadField(prefix + key,
                           fmt::format("{}{} is not supported; there are json, regex, choice, grammar "
                                       "and json_object.",
                                       prefix, key),
                           "unsupported_parameter"));
    }
  }
  return {};
}

}  // namespace

Result<OutputFormat> ReadOutputFormat(const FieldReader& reader) {
  using Kind = OutputFormat::Kind;
  FormatReader out;
  if (const Json* value = reader.Find("response_format")) TP_TRY(ReadResponseFormat(*value, out));
  for (const char* name : {"json_schema", "guided_json"}) {
    if (const Json* value = reader.Find(name)) TP_TRY(out.Schema(name, *value));
  }
  for (const char* name : {"regex", "guided_regex"}) {
    if (const Json* value = reader.Find(name)) TP_TRY(out.Text(name, Kind::kRegex, *value));
  }
  for (const char* name : {"choice", "guided_choice"}) {
    if (const Json* value = reader.Find(name)) TP_TRY(out.Choices(name, *value));
  }
  for (const char* name : {"grammar", "guided_grammar"}) {
    if (const Json* value = reader.Find(name)) TP_TRY(out.Text(name, Kind::kGrammar, *value));
  }
  if (const Json* value = reader.Find("structured_outputs")) TP_TRY(ReadStructuredOutputs(*value, out));
  return std::move(out.format);
}

}  // namespace tidepool::gateway::openai
