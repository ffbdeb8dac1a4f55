#include "gateway/anthropic/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "gateway/anthropic/content.h"
#include "gateway/tool_list.h"

namespace tidepool::gateway::anthropic {
namespace {

using enum FieldType;
using enum Treatment;

constexpr double kMaxTokens = 2147483647;
// The engine's own limits (compute/engine/engine.h).
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;

bool AsksForNothing(const Json& value) { return value.empty(); }  // [] or {}

// What counts for the prompt.
constexpr Field kPromptFields[] = {
    {"model", kString, kRead, "The model's id, as GET /v1/models lists it"},
    {"messages", kArray, kRead, "The conversation; a last message of the assistant is continued"},
    {"system", kAny, kRead, "A string or text blocks"},
    {"tools", kArray, kRead, "Functions that the model may call; at most 512"},
    {"tool_choice", kObject, kRead, "Default: auto"},
    {"thinking", kObject, kRead, "Default: disabled, as far as the model's chat template can"},
    {"output_config", kObject, kRead, "effort and format"},
    {"output_format", kObject, kRead, "The older name of output_config.format"},
    {"tool_call_format", kString, kRead,
     "Not Anthropic's: how the model writes calls, as in OpenAI's dialect"},
    {"cache_control", kObject, kAccepted, "Prefixes are found in the cache without it"},
    {"context_management", kAny, kIgnored, "nothing is cleared from the context"},
    {"speed", kAny, kIgnored, ""},
    {"mcp_servers", kAny, kRefused, "tools of MCP servers are called by the client here", 0, 0, false,
     AsksForNothing},
};
constexpr Field kAnswerFields[] = {
    {"max_tokens", kInteger, kRead, "Most tokens of the answer, thinking included; required", 1, kMaxTokens},
    {"stop_sequences", kArray, kRead, "Up to 16 strings that end the answer"},
    {"temperature", kNumber, kRead, "0: always the likeliest token. (Anthropic's own range ends at 1.)", 0,
     2},
    {"top_p", kNumber, kRead, "Nucleus sampling", 0, 1, true},
    {"top_k", kInteger, kRead, "The likeliest so many tokens; 0: all", 0, kMaxTokens},
    {"stream", kBoolean, kRead, "Server-sent events as the answer is made"},
    {"metadata", kAny, kIgnored, ""},
    {"service_tier", kAny, kIgnored, ""},
    {"inference_geo", kAny, kIgnored, ""},
    {"diagnostics", kAny, kIgnored, ""},
    {"container", kAny, kRefused, "there are no containers here"},
};
constexpr Field kToolFields[] = {
    {"name", kString, kRead, "1 to 128 letters, digits or any of _-.:/"},
    {"description", kString, kRead, "What it is for"},
    {"input_schema", kObject, kRead, "JSON schema of its arguments"},
    {"type", kString, kRead, "custom (the default); Anthropic's own tools are refused"},
    {"strict", kBoolean, kRead, "Arguments are always of the schema"},
    {"cache_control", kObject, kAccepted, "Prefixes are found in the cache without it"},
    {"eager_input_streaming", kAny, kIgnored, "arguments always come as they are made"},
    {"input_examples", kAny, kIgnored, ""},
    {"allowed_callers", kAny, kIgnored, ""},
    {"defer_loading", kAny, kIgnored, "every tool is shown"},
};
constexpr Field kChoiceFields[] = {
    {"type", kString, kRead, "auto, any, tool or none"},
    {"name", kString, kRead, "With type tool: which one"},
    {"disable_parallel_tool_use", kBoolean, kRead, "true: at most one call an answer"},
};
constexpr Field kThinkingConfigFields[] = {
    {"type", kString, kRead, "enabled, adaptive or disabled"},
    {"budget_tokens", kInteger, kRead, "With type enabled: tokens of thinking, at most max_tokens", 1,
     kMaxTokens},
    {"display", kString, kRead, "summarized: thinking is returned (whole); omitted: it is not"},
};
constexpr Field kFormatFields[] = {
    {"type", kString, kRead, "json_schema"},
    {"schema", kObject, kRead, "The answer is JSON of this schema"},
    {"name", kString, kAccepted, "Says nothing to the models served here"},
    {"strict", kBoolean, kAccepted, "Schemas are always enforced"},
};
constexpr Field kOutputFields[] = {
    {"effort", kString, kRead, "low, medium, high, xhigh or max: for the model's chat template"},
    {"format", kObject, kRead, "{\"type\": \"json_schema\", \"schema\"}: the answer is JSON of this schema"},
};

// One request kind's fields in one piece.
std::span<const Field> MessageRequestFields() {
  static const std::vector<Field> kFields = [] {
    std::vector<Field> out(std::begin(kPromptFields), std::end(kPromptFields));
    out.insert(out.end(), std::begin(kAnswerFields), std::end(kAnswerFields));
    return out;
  }();
  return kFields;
}

class RequestReader {
 public:
  RequestReader(const Json& body, std::span<const Field> fields, ParsedMessages& out)
      : reader_(body, fields), out_(out), request_(out.request) {}

  Status Prompt() {
    TP_TRY(Check(reader_));
    TP_ASSIGN(request_.model, ReadModelName(reader_));
    const Json* messages = reader_.Find("messages");
    if (messages == nullptr) return Fail(BadField("messages", "messages is missing.", "missing_field"));
    TP_ASSIGN(ReadContent content, ReadMessages(reader_.Find("system"), *messages));
    request_.messages = std::move(content.messages);
    if (content.continues) request_.template_variables["continue_final_message"] = true;
    AddIgnored(content.ignored, out_.ignored);
    TP_TRY(Tools());
    TP_TRY(Thinking());
    return Output();
  }

  Status Answer() {
    platform::SamplingRequest& sampling = request_.sampling;
    sampling.max_tokens = reader_.Integer("max_tokens");
    if (!sampling.max_tokens) return Fail(BadField("max_tokens", "max_tokens is missing.", "missing_field"));
    if (sampling.reasoning_budget && *sampling.reasoning_budget > *sampling.max_tokens) {
      return Fail(BadField("thinking.budget_tokens",
                           fmt::format("thinking.budget_tokens ({}) must be at most max_tokens ({}).",
                                       *sampling.reasoning_budget, *sampling.max_tokens)));
    }
    sampling.temperature = reader_.Number("temperature");
    sampling.top_p = reader_.Number("top_p");
    sampling.top_k = reader_.Integer("top_k");
    out_.stream = reader_.Boolean("stream").value_or(false);
    const Json* stops = reader_.Find("stop_sequences");
    if (stops == nullptr) return {};
    if (stops->size() > kMaxStops) {
      return Fail(BadField("stop_sequences", fmt::format("stop_sequences holds {} strings; at most {} are "
                                                         "possible.",
                                                         stops->size(), kMaxStops)));
    }
    for (size_t i = 0; i < stops->size(); ++i) {
      const Json& stop = (*stops)[i];
      const std::string place = fmt::format("stop_sequences[{}]", i);
      if (!stop.is_string()) {
        return Fail(
            BadField(place, fmt::format("{} must be a string, not {}.", place, Shown(stop)), "invalid_type"));
      }
      const auto& text = stop.get_ref<const std::string&>();
      if (text.empty() || text.size() > kMaxStopBytes) {
        return Fail(BadField(
            place, fmt::format("{} must have 1 to {} bytes, not {}.", place, kMaxStopBytes, text.size())));
      }
      sampling.stop.push_back(text);
    }
    return {};
  }

 private:
  Status Check(FieldReader& reader) {
    TP_TRY(CheckFields(reader, out_.ignored));
    return CheckCacheControl(reader, out_.ignored);
  }

  Status Tools() {
    ToolList list(request_);
    request_.tool_call_format = reader_.String("tool_call_format").value_or("");
    if (const Json* tools = reader_.Find("tools")) {
      for (size_t i = 0; i < tools->size(); ++i) {
        const std::string place = fmt::format("tools[{}]", i);
        TP_TRY(Tool((*tools)[i], place, list));
      }
    }
    const Json* choice = reader_.Find("tool_choice");
    if (choice == nullptr) return {};
    FieldReader reader(*choice, kChoiceFields, "tool_choice");
    TP_TRY(Check(reader));
    return Choice(reader, list);
  }

  Status Tool(const Json& tool, const std::string& place, ToolList& list) {
    if (!tool.is_object()) {
      return Fail(
          BadField(place, fmt::format("{} must be an object, not {}.", place, Shown(tool)), "invalid_type"));
    }
    FieldReader reader(tool, kToolFields, place);
    TP_TRY(Check(reader));
    if (const auto type = reader.String("type"); type && *type != "custom") {
      return Fail(
          BadField(place + ".type",
                   fmt::format("{}.type: {} is a tool of Anthropic's servers and models; only tools of "
                               "the type custom are possible.",
                               place, Shown(tool["type"])),
                   "unsupported_parameter"));
    }
    const Json* schema = reader.Find("input_schema");
    if (schema == nullptr) {
      return Fail(BadField(place + ".input_schema", fmt::format("{}.input_schema is missing.", place),
                           "missing_field"));
    }
    Json function = Json::object();
    if (const Json* name = reader.Find("name")) function["name"] = *name;
    if (const Json* text = reader.Find("description")) function["description"] = *text;
    function["parameters"] = *schema;
    if (const Json* strict = reader.Find("strict")) function["strict"] = *strict;
    return list.Add(Json{{"type", "function"}, {"function", std::move(function)}},
                    {place + ".name", place + ".input_schema", place + ".strict"});
  }

  Status Choice(const FieldReader& reader, const ToolList& list) {
    using platform::ToolChoice;
    const std::string type = reader.String("type").value_or("");
    const auto name = reader.String("name");
    if (type != "auto" && type != "any" && type != "tool" && type != "none") {
      return Fail(BadField("tool_choice.type", "tool_choice.type must be auto, any, tool or none."));
    }
    if (name && type != "tool") {
      return Fail(
          BadField("tool_choice.name", fmt::format("tool_choice.name needs the type tool, not {}.", type)));
    }
    if (reader.Boolean("disable_parallel_tool_use").value_or(false)) {
      if (type == "none") {
        return Fail(BadField("tool_choice.disable_parallel_tool_use",
                             "tool_choice of the type none has no calls that could be parallel."));
      }
      request_.parallel_tool_calls = false;
    }
    if (type == "none") request_.tool_choice = ToolChoice::kNone;
    if (type == "none" || type == "auto") return {};
    if (request_.tools.empty()) {
      return Fail(
          BadField("tool_choice", "tool_choice asks for a call, but there are no tools; send tools too."));
    }
    if (type == "any") {
      request_.tool_choice = ToolChoice::kRequired;
      return {};
    }
    if (!name) return Fail(BadField("tool_choice.name", "tool_choice.name is missing.", "missing_field"));
    if (!list.Has(*name)) {
      return Fail(BadField("tool_choice.name", fmt::format("tool_choice.name: \"{}\" is none of the tools.",
                                                           name->substr(0, kMaxToolName))));
    }
    request_.tool_choice = ToolChoice::kNamed;
    request_.tool_name = *name;
    return {};
  }

  // Anthropic's default is no thinking.
  Status Thinking() {
    Json& variables = request_.template_variables;
    variables["enable_thinking"] = false;
    const Json* thinking = reader_.Find("thinking");
    if (thinking == nullptr) return {};
    FieldReader reader(*thinking, kThinkingConfigFields, "thinking");
    TP_TRY(Check(reader));
    const std::string type = reader.String("type").value_or("");
    if (type != "enabled" && type != "adaptive" && type != "disabled") {
      return Fail(BadField("thinking.type", "thinking.type must be enabled, adaptive or disabled."));
    }
    const auto budget = reader.Integer("budget_tokens");
    if (type == "enabled" && !budget) {
      return Fail(BadField("thinking.budget_tokens",
                           "thinking.budget_tokens is missing, which the type enabled needs.",
                           "missing_field"));
    }
    if (type != "enabled" && budget) {
      return Fail(BadField("thinking.budget_tokens",
                           fmt::format("thinking.budget_tokens needs the type enabled, not {}.", type)));
    }
    const auto display = reader.String("display");
    if (display && *display != "summarized" && *display != "omitted") {
      return Fail(BadField("thinking.display", "thinking.display must be summarized or omitted."));
    }
    out_.hide_thinking = display == "omitted";
    variables["enable_thinking"] = type != "disabled";
    request_.sampling.reasoning_budget = budget;
    return {};
  }

  Status Output() {
    if (const Json* format = reader_.Find("output_format")) TP_TRY(Format(*format, "output_format"));
    const Json* config = reader_.Find("output_config");
    if (config == nullptr) return {};
    FieldReader reader(*config, kOutputFields, "output_config");
    TP_TRY(Check(reader));
    if (const auto effort = reader.String("effort")) {
      static constexpr std::string_view kEfforts[] = {"low", "medium", "high", "xhigh", "max"};
      if (std::find(std::begin(kEfforts), std::end(kEfforts), *effort) == std::end(kEfforts)) {
        return Fail(BadField("output_config.effort",
                             "output_config.effort must be low, medium, high, xhigh or max."));
      }
      // The templates' words end at xhigh.
      request_.template_variables["reasoning_effort"] = *effort == "max" ? "xhigh" : *effort;
    }
    const Json* format = reader.Find("format");
    return format == nullptr ? Status{} : Format(*format, "output_config.format");
  }

  Status Format(const Json& format, const std::string& place) {
    FieldReader reader(format, kFormatFields, place);
    TP_TRY(Check(reader));
    const Json* schema = reader.Find("schema");
    if (reader.String("type") != "json_schema" || schema == nullptr) {
      return Fail(BadField(
          place, fmt::format("{} must be {{\"type\": \"json_schema\", \"schema\": {{...}}}}.", place)));
    }
    platform::OutputFormat& output = request_.sampling.output;
    if (output.kind != platform::OutputFormat::Kind::kText) {
      return Fail(BadField(place, fmt::format("{} and output_format both say what the answer must be; send "
                                              "one of them.",
                                              place)));
    }
    output.kind = platform::OutputFormat::Kind::kJsonSchema;
    output.schema = *schema;
    output.param = place + ".schema";
    return {};
  }

  FieldReader reader_;
  ParsedMessages& out_;
  platform::ChatRequest& request_;
};

constexpr std::string_view kExample =
    R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}]})";
constexpr std::string_view kToolsExample =
    R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"f","input_schema":{},"cache_control":{"type":"ephemeral"}}],"tool_choice":{"type":"auto"}})";
constexpr std::string_view kThinkingExample =
    R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}],"thinking":{"type":"enabled","budget_tokens":5}})";
constexpr std::string_view kOutputExample =
    R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}],"output_config":{"effort":"low","format":{"type":"json_schema","schema":{}}}})";
constexpr std::string_view kFormatExample =
    R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}],"output_format":{"type":"json_schema","schema":{}}})";

template <auto Parse>
Result<std::vector<std::string>> Decode(const Json& body) {
  TP_ASSIGN(ParsedMessages parsed, Parse(body));
  return std::move(parsed.ignored);
}

std::vector<FieldTable> Tables(std::span<const Field> fields) {
  std::vector<FieldTable> tables = {
      {"", "", "", "", fields},
      {"tools[]", "", kToolsExample, "/tools/0", kToolFields},
      {"tool_choice", "", kToolsExample, "/tool_choice", kChoiceFields},
      {"thinking", "", kThinkingExample, "/thinking", kThinkingConfigFields},
      {"output_config", "", kOutputExample, "/output_config", kOutputFields},
      {"output_config.format", "", kOutputExample, "/output_config/format", kFormatFields},
      {"output_format", "", kFormatExample, "/output_format", kFormatFields},
  };
  for (const FieldTable& table : ContentTables()) tables.push_back(table);
  return tables;
}

}  // namespace

Result<ParsedMessages> ParseMessages(const Json& body) {
  ParsedMessages parsed;
  RequestReader reader(body, MessageRequestFields(), parsed);
  TP_TRY(reader.Prompt());
  TP_TRY(reader.Answer());
  return parsed;
}

Result<ParsedMessages> ParseCountTokens(const Json& body) {
  ParsedMessages parsed;
  RequestReader reader(body, kPromptFields, parsed);
  TP_TRY(reader.Prompt());
  return parsed;
}

Json MessagesSchema() { return SchemaOf(MessageRequestFields(), {"model", "max_tokens", "messages"}); }
Json CountTokensSchema() { return SchemaOf(kPromptFields, {"model", "messages"}); }

DialectRequest MessagesDialect() {
  return {"Anthropic Messages",
          "POST /v1/messages, POST /anthropic/v1/messages",
          kExample,
          Tables(MessageRequestFields()),
          Decode<ParseMessages>,
          "Headers: the key is sent as `x-api-key` or `Authorization: Bearer`; `anthropic-version` and "
          "`anthropic-beta` are accepted, whatever they say."};
}
DialectRequest CountTokensDialect() {
  return {"Anthropic token counting",
          "POST /v1/messages/count_tokens, POST /anthropic/v1/messages/count_tokens",
          R"({"model":"m","messages":[{"role":"user","content":"x"}]})",
          {{"", "", "", "", kPromptFields}},
          Decode<ParseCountTokens>,
          "The objects within it are those of Anthropic Messages, read by the same code."};
}

}  // namespace tidepool::gateway::anthropic
