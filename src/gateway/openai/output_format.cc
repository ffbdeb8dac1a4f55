#include "gateway/openai/output_format.h"

#include <fmt/format.h>

namespace tidepool::gateway::openai {
namespace {

using platform::OutputFormat;

using enum FieldType;
using enum Treatment;

constexpr size_t kMaxChoiceStrings = 4096;

bool IsFalse(const Json& value) { return value == false; }

constexpr Field kFormatFields[] = {
    {"type", kString, kRead, "text, json_object or json_schema"},
    {"json_schema", kObject, kRead, "With type json_schema"},
    {"schema", kAny, kRead, "With type json_object: the schema, as servers took it before json_schema"},
};
constexpr Field kSchemaHolderFields[] = {
    {"name", kString, kAccepted, "Says nothing to the models served here"},
    {"schema", kAny, kRead, "The answer is JSON of this schema"},
    {"strict", kBoolean, kAccepted, "Schemas are always enforced"},
    {"description", kAny, kIgnored, "write it into a message"},
};
constexpr Field kStructuredFields[] = {
    {"json", kAny, kRead, "The answer is JSON of this schema"},
    {"regex", kString, kRead, "The answer matches this regular expression"},
    {"choice", kArray, kRead, "The answer is one of these strings"},
    {"grammar", kString, kRead, "The answer is what this GBNF grammar says"},
    {"json_object", kBoolean, kRead, "true: the answer is a JSON object"},
    {"disable_fallback", kAny, kAccepted, "There is no fallback: what cannot be enforced is refused"},
    {"disable_any_whitespace", kAny, kRefused, "the schema decides on white space", 0, 0, false, IsFalse},
    {"disable_additional_properties", kAny, kRefused, "write additionalProperties into the schema", 0, 0,
     false, IsFalse},
    {"whitespace_pattern", kAny, kRefused, "the schema decides on white space"},
    {"structural_tag", kAny, kRefused, "structural tags are not supported"},
};

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

Status ReadResponseFormat(const Json& value, FormatReader& out, std::vector<std::string>& ignored) {
  FieldReader reader(value, kFormatFields, "response_format");
  TP_TRY(CheckFields(reader, ignored));
  const std::string type = reader.String("type").value_or("");
  const Json* older = reader.Find("schema");
  const Json* holder = reader.Find("json_schema");
  if (type == "text") return {};
  if (type == "json_object") {
    if (older != nullptr) return out.Schema("response_format.schema", *older);
    return out.JsonObject("response_format");
  }
  if (type != "json_schema") {
    return Fail(BadField("response_format.type",
                         fmt::format("response_format.type must be text, json_object or json_schema, not {}.",
                                     Shown(value.value("type", Json())))));
  }
  if (holder == nullptr) {
    return Fail(BadField("response_format.json_schema",
                         "response_format.json_schema must be an object with a name and a schema.",
                         "missing_field"));
  }
  FieldReader inner(*holder, kSchemaHolderFields, "response_format.json_schema");
  TP_TRY(CheckFields(inner, ignored));
  const Json* schema = inner.Find("schema");
  if (schema == nullptr) {
    return Fail(BadField("response_format.json_schema.schema",
                         "response_format.json_schema.schema is missing.", "missing_field"));
  }
  return out.Schema("response_format.json_schema.schema", *schema);
}

Status ReadStructuredOutputs(const Json& value, FormatReader& out, std::vector<std::string>& ignored) {
  using Kind = OutputFormat::Kind;
  FieldReader reader(value, kStructuredFields, "structured_outputs");
  TP_TRY(CheckFields(reader, ignored));
  if (const Json* item = reader.Find("json")) TP_TRY(out.Schema("structured_outputs.json", *item));
  if (const Json* item = reader.Find("regex"))
    TP_TRY(out.Text("structured_outputs.regex", Kind::kRegex, *item));
  if (const Json* item = reader.Find("choice")) TP_TRY(out.Choices("structured_outputs.choice", *item));
  if (const Json* item = reader.Find("grammar"))
    TP_TRY(out.Text("structured_outputs.grammar", Kind::kGrammar, *item));
  if (reader.Boolean("json_object").value_or(false)) TP_TRY(out.JsonObject("structured_outputs.json_object"));
  return {};
}

}  // namespace

Result<OutputFormat> ReadOutputFormat(const FieldReader& reader, std::vector<std::string>& ignored) {
  using Kind = OutputFormat::Kind;
  FormatReader out;
  if (const Json* value = reader.Find("response_format")) TP_TRY(ReadResponseFormat(*value, out, ignored));
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
  if (const Json* value = reader.Find("structured_outputs"))
    TP_TRY(ReadStructuredOutputs(*value, out, ignored));
  return std::move(out.format);
}

std::vector<FieldTable> ResponseFormatTables(std::string_view prefix, std::string_view example) {
  const std::string place = prefix.empty() ? std::string() : fmt::format("{}.", prefix);
  const std::string pointer = prefix.empty() ? std::string() : fmt::format("/{}", prefix);
  return {
      {place + "response_format", "", example, pointer + "/response_format", kFormatFields},
      {place + "response_format.json_schema", "", example, pointer + "/response_format/json_schema",
       kSchemaHolderFields},
  };
}

FieldTable StructuredOutputsTable(std::string_view example) {
  return {"structured_outputs", "", example, "/structured_outputs", kStructuredFields};
}

}  // namespace tidepool::gateway::openai
