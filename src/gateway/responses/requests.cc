#include "gateway/responses/requests.h"

#include <fmt/format.h>

#include <algorithm>

#include "gateway/openai/sampling_fields.h"
#include "gateway/responses/items.h"
#include "gateway/tool_list.h"

namespace tidepool::gateway::responses {
namespace {

using enum FieldType;
using enum Treatment;

constexpr double kMaxTokens = 2147483647;
constexpr size_t kMaxMetadata = 16;

constexpr Field kFields[] = {
    {"model", kString, kRead, "The model's id, as GET /v1/models lists it"},
    {"input", kAny, kRead, "A string, or items: message, function_call, function_call_output, reasoning"},
    {"instructions", kString, kRead,
     "The system message of this response; it is not carried over to the next"},
    {"previous_response_id", kString, kRead, "Goes on from a stored response of this workspace"},
    {"store", kBoolean, kRead,
     "Default: true, false where the workspace stores none. Kept for the time of the setting "
     "responses.ttl_hours"},
    {"background", kBoolean, kRead,
     "true: answered at once, and made without the connection; needs store, ends only by cancel or delete"},
    {"stream", kBoolean, kRead, "Server-sent events as the answer is made"},
    {"stream_options", kObject, kRead, "Nothing in it has an effect"},
    {"max_output_tokens", kInteger, kRead, "Most tokens of the answer, reasoning included", 1, kMaxTokens},
    {"temperature", kNumber, kRead, "0: always the likeliest token", 0, 2},
    {"top_p", kNumber, kRead, "Nucleus sampling", 0, 1, true},
    {"top_logprobs", kInteger, kRead, "Needs include: [\"message.output_text.logprobs\"]", 0, 20},
    {"text", kObject, kRead, "format"},
    {"reasoning", kObject, kRead, "effort and summary"},
    {"enable_thinking", kBoolean, kRead, "Passed to the model's chat template"},
    {"thinking_budget", kInteger, kRead, "Tokens of reasoning before it is closed", 0, kMaxTokens},
    {"tools", kArray, kRead, "Functions that the model may call; at most 512"},
    {"tool_choice", kAny, kRead,
     "auto, none, required, {\"type\": \"function\", \"name\"} or {\"type\": \"allowed_tools\", \"mode\", "
     "\"tools\"}"},
    {"parallel_tool_calls", kBoolean, kRead, "false: at most one call an answer; default true"},
    {"tool_call_format", kString, kRead,
     "Not OpenAI's: how the model writes calls, as in chat completions here"},
    {"metadata", kObject, kRead, "Up to 16 strings that are kept with the response"},
    {"truncation", kString, kRead,
     "auto: the oldest turns are left out until the rest fits the context; disabled (default): a 400"},
    {"include", kArray, kRead,
     "message.output_text.logprobs; reasoning.encrypted_content is accepted: reasoning is never encrypted "
     "here"},
    {"user", kAny, kIgnored, ""},
    {"safety_identifier", kAny, kIgnored, ""},
    {"service_tier", kString, kRead, openai::kServiceTierHelp},
    {"prompt_cache_key", kAny, kIgnored, "prefixes are found without it"},
    {"prompt_cache_options", kAny, kIgnored, ""},
    {"prompt_cache_retention", kAny, kIgnored, ""},
    {"max_tool_calls", kAny, kIgnored, "it counts calls of built-in tools, of which there are none"},
    {"context_management", kAny, kIgnored, "nothing is compacted"},
    {"moderation", kAny, kIgnored, ""},
    {"conversation", kAny, kRefused, "use previous_response_id"},
    {"prompt", kAny, kRefused, "there are no stored prompts"},
};
constexpr Field kTextFields[] = {
    {"format", kObject, kRead,
     "{\"type\": \"text\"}, {\"type\": \"json_object\"} or {\"type\": \"json_schema\", name, schema, "
     "strict}"},
    {"verbosity", kAny, kIgnored, ""},
};
constexpr Field kReasoningConfigFields[] = {
    {"effort", kString, kRead,
     "none, minimal, low, medium, high or xhigh: passed to the chat template; none turns thinking off"},
    {"summary", kString, kRead,
     "auto, concise or detailed: the reasoning, whole, is shown as a summary; else as reasoning_text"},
    {"generate_summary", kString, kRead, "The older name of summary"},
    {"context", kAny, kIgnored, ""},
};
constexpr Field kToolFields[] = {
    {"type", kString, kRead, "function; built-in tools are refused"},
    {"name", kString, kRead, "1 to 128 letters, digits or any of _-.:/"},
    {"description", kString, kRead, "What it is for"},
    {"parameters", kObject, kRead, "JSON schema of its arguments"},
    {"strict", kBoolean, kRead, "Arguments are always of the schema; default false"},
    {"defer_loading", kAny, kIgnored, "every tool is shown"},
    {"allowed_callers", kAny, kIgnored, ""},
    {"output_schema", kAny, kIgnored, ""},
};

constexpr Field kStreamOptionsFields[] = {
    {"include_obfuscation", kAny, kIgnored, "events are not padded"},
};
constexpr Field kFormatFields[] = {
    {"type", kString, kRead, "text, json_object or json_schema"},
    {"schema", kObject, kRead, "With type json_schema: the answer is JSON of this schema"},
    {"name", kString, kAccepted, "Shown in the response"},
    {"strict", kBoolean, kAccepted, "Schemas are always enforced"},
    {"description", kAny, kIgnored, "write it into a message"},
};
constexpr Field kChoiceFields[] = {
    {"type", kString, kRead, "function or allowed_tools"},
    {"name", kString, kRead, "With type function: which one"},
    {"mode", kString, kRead, "With type allowed_tools: auto or required"},
    {"tools", kArray, kRead, "With type allowed_tools: only these are offered"},
    {"server_label", kAny, kRefused, "there are no MCP servers here"},
};
constexpr Field kAllowedFields[] = {
    {"type", kString, kRead, "function"},
    {"name", kString, kRead, "Its name"},
    {"server_label", kAny, kRefused, "there are no MCP servers here"},
};

class RequestReader {
 public:
  RequestReader(const Json& body, ParsedResponse& out)
      : reader_(body, kFields), out_(out), request_(out.request) {}

  Status Read() {
    TP_TRY(Check(reader_));
    TP_ASSIGN(request_.model, ReadModelName(reader_));
    const Json* input = reader_.Find("input");
    if (input == nullptr) return Fail(BadField("input", "input is missing.", "missing_field"));
    TP_ASSIGN(out_.input, ReadInput(*input, out_.ignored));
    out_.instructions = reader_.String("instructions").value_or("");
    out_.previous = reader_.String("previous_response_id").value_or("");
    out_.stream = reader_.Boolean("stream").value_or(false);
    out_.store = reader_.Boolean("store").value_or(true);
    out_.says_store = reader_.Has("store");
    out_.background = reader_.Boolean("background").value_or(false);
    if (out_.background && !out_.store)
      return Fail(BadField("background", "background needs store: the answer is read from there."));
    platform::SamplingRequest& sampling = request_.sampling;
    sampling.max_tokens = reader_.Integer("max_output_tokens");
    sampling.temperature = reader_.Number("temperature");
    sampling.top_p = reader_.Number("top_p");
    sampling.reasoning_budget = reader_.Integer("thinking_budget");
    TP_TRY(openai::ReadServiceTier(reader_, sampling.priority));
    TP_TRY(Include());
    TP_TRY(Options());
    TP_TRY(Metadata());
    TP_TRY(Reasoning());
    TP_TRY(Text());
    TP_TRY(Tools());
    Show();
    return {};
  }

 private:
  Status Check(FieldReader& reader) { return CheckFields(reader, out_.ignored); }

  Status Options() {
    const std::string truncation = reader_.String("truncation").value_or("disabled");
    if (truncation != "auto" && truncation != "disabled")
      return Fail(BadField("truncation", "truncation must be auto or disabled."));
    out_.truncate = truncation == "auto";
    const Json* options = reader_.Find("stream_options");
    if (options == nullptr) return {};
    if (!out_.stream) return Fail(BadField("stream_options", "stream_options needs \"stream\": true."));
    FieldReader inner(*options, kStreamOptionsFields, "stream_options");
    return Check(inner);
  }

  Status Include() {
    if (const Json* include = reader_.Find("include")) {
      for (size_t i = 0; i < include->size(); ++i) {
        const Json& what = (*include)[i];
        if (what == "message.output_text.logprobs") {
          out_.logprobs = true;
        } else if (!what.is_string()) {
          const std::string place = fmt::format("include[{}]", i);
          return Fail(BadField(place, fmt::format("{} must be a string, not {}.", place, Shown(what)),
                               "invalid_type"));
        } else if (what != "reasoning.encrypted_content") {
          AddIgnored({"include." + what.get<std::string>()}, out_.ignored);
        }
      }
    }
    const auto top = reader_.Integer("top_logprobs");
    if (top && *top > 0) out_.logprobs = true;
    if (out_.logprobs) request_.sampling.top_logprobs = static_cast<int32_t>(top.value_or(0));
    return {};
  }

  Status Metadata() {
    const Json* metadata = reader_.Find("metadata");
    if (metadata == nullptr) return {};
    if (metadata->size() > kMaxMetadata) {
      return Fail(BadField("metadata", fmt::format("metadata holds {} keys; at most {} are possible.",
                                                   metadata->size(), kMaxMetadata)));
    }
    for (const auto& [key, value] : metadata->items()) {
      if (!value.is_string() || key.size() > 64 || value.get_ref<const std::string&>().size() > 512) {
        return Fail(BadField("metadata",
                             "metadata holds strings of at most 512 bytes under keys of at most 64 bytes."));
      }
    }
    return {};
  }

  Status Reasoning() {
    Json& variables = request_.template_variables;
    if (const Json* reasoning = reader_.Find("reasoning")) {
      FieldReader reader(*reasoning, kReasoningConfigFields, "reasoning");
      TP_TRY(Check(reader));
      if (const auto effort = reader.String("effort")) {
        static constexpr std::string_view kEfforts[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
        if (std::find(std::begin(kEfforts), std::end(kEfforts), *effort) == std::end(kEfforts)) {
          return Fail(BadField("reasoning.effort",
                               "reasoning.effort must be none, minimal, low, medium, high or xhigh."));
        }
        variables["reasoning_effort"] = *effort;
        if (*effort == "none") variables["enable_thinking"] = false;
        effort_ = *effort;
      }
      for (const char* name : {"generate_summary", "summary"}) {
        const auto summary = reader.String(name);
        if (!summary) continue;
        if (*summary != "auto" && *summary != "concise" && *summary != "detailed") {
          return Fail(BadField(fmt::format("reasoning.{}", name),
                               fmt::format("reasoning.{} must be auto, concise or detailed.", name)));
        }
        out_.summary = true;
        summary_ = *summary;
      }
    }
    if (const auto thinking = reader_.Boolean("enable_thinking")) {
      if (*thinking && effort_ == "none") {
        return Fail(BadField("enable_thinking", "enable_thinking and reasoning.effort none contradict."));
      }
      variables["enable_thinking"] = *thinking;
    }
    return {};
  }

  Status Text() {
    format_ = Json{{"type", "text"}};
    const Json* text = reader_.Find("text");
    if (text == nullptr) return {};
    FieldReader reader(*text, kTextFields, "text");
    TP_TRY(Check(reader));
    const Json* format = reader.Find("format");
    if (format == nullptr) return {};
    format_ = *format;
    FieldReader inner(*format, kFormatFields, "text.format");
    TP_TRY(Check(inner));
    platform::OutputFormat& output = request_.sampling.output;
    const std::string type = inner.String("type").value_or("");
    const Json* schema = inner.Find("schema");
    if (type == "text") return {};
    if (type == "json_object") {
      output.kind = platform::OutputFormat::Kind::kJsonObject;
      output.param = "text.format";
      return {};
    }
    if (type != "json_schema") {
      return Fail(BadField("text.format.type", fmt::format("text.format.type must be text, json_object or "
                                                           "json_schema, not {}.",
                                                           Shown(format->value("type", Json())))));
    }
    if (schema == nullptr)
      return Fail(BadField("text.format.schema", "text.format.schema is missing.", "missing_field"));
    output.kind = platform::OutputFormat::Kind::kJsonSchema;
    output.schema = *schema;
    output.param = "text.format.schema";
    return {};
  }

  Status Tools() {
    ToolList list(request_);
    if (const Json* tools = reader_.Find("tools")) {
      for (size_t i = 0; i < tools->size(); ++i) {
        TP_TRY(Tool((*tools)[i], fmt::format("tools[{}]", i), list));
      }
    }
    request_.parallel_tool_calls = reader_.Boolean("parallel_tool_calls").value_or(true);
    request_.tool_call_format = reader_.String("tool_call_format").value_or("");
    const Json* choice = reader_.Find("tool_choice");
    return choice == nullptr ? Status{} : Choice(*choice, list);
  }

  Status Tool(const Json& tool, const std::string& place, ToolList& list) {
    if (!tool.is_object()) {
      return Fail(
          BadField(place, fmt::format("{} must be an object, not {}.", place, Shown(tool)), "invalid_type"));
    }
    FieldReader reader(tool, kToolFields, place);
    TP_TRY(Check(reader));
    if (reader.String("type") != "function") {
      return Fail(BadField(place + ".type",
                           fmt::format("{}.type must be \"function\"; other tools are not supported.", place),
                           "unsupported_parameter"));
    }
    Json function = Json::object();
    for (const char* name : {"name", "description", "parameters", "strict"}) {
      if (const Json* value = reader.Find(name)) function[name] = *value;
    }
    return list.Add(Json{{"type", "function"}, {"function", std::move(function)}},
                    {place + ".name", place + ".parameters", place + ".strict"});
  }

  Error NoChoice() const {
    return BadField("tool_choice",
                    "tool_choice must be none, auto, required, {\"type\": \"function\", \"name\": ...} or "
                    "{\"type\": \"allowed_tools\", \"mode\": ..., \"tools\": [...]}.");
  }

  Status Mode(const Json& mode) {
    using platform::ToolChoice;
    if (mode == "auto") return {};
    if (mode == "none") {
      request_.tool_choice = ToolChoice::kNone;
      return {};
    }
    if (mode != "required") return Fail(NoChoice());
    if (request_.tools.empty()) {
      return Fail(
          BadField("tool_choice", "tool_choice asks for a call, but there are no tools; send tools too."));
    }
    request_.tool_choice = ToolChoice::kRequired;
    return {};
  }

  Result<std::string> Named(const FieldReader& choice, const ToolList& list) {
    const auto name = choice.String("name");
    if (choice.String("type") != "function" || !name) return Fail(NoChoice());
    if (list.Has(*name)) return *name;
    const std::string place = choice.Place("name");
    return Fail(BadField(
        place, fmt::format("{}: \"{}\" is none of the tools.", place, name->substr(0, kMaxToolName))));
  }

  Status Choice(const Json& choice, const ToolList& list) {
    if (choice.is_string()) return Mode(choice);
    if (!choice.is_object()) return Fail(NoChoice());
    FieldReader reader(choice, kChoiceFields, "tool_choice");
    TP_TRY(Check(reader));
    const std::string mode = reader.String("mode").value_or("auto");
    const Json* tools = reader.Find("tools");
    if (reader.String("type") != "allowed_tools") {
      TP_ASSIGN(request_.tool_name, Named(reader, list));
      request_.tool_choice = platform::ToolChoice::kNamed;
      return {};
    }
    // Only these are offered.
    if (tools == nullptr || tools->empty()) return Fail(NoChoice());
    std::vector<std::string> names;
    for (size_t i = 0; i < tools->size(); ++i) {
      if (!(*tools)[i].is_object()) return Fail(NoChoice());
      FieldReader allowed((*tools)[i], kAllowedFields, fmt::format("tool_choice.tools[{}]", i));
      TP_TRY(Check(allowed));
      TP_ASSIGN(std::string name, Named(allowed, list));
      names.push_back(std::move(name));
    }
    Json offered = Json::array();
    for (const Json& tool : request_.tools) {
      if (std::find(names.begin(), names.end(), tool["function"]["name"].get_ref<const std::string&>()) !=
          names.end())
        offered.push_back(tool);
    }
    request_.tools = std::move(offered);
    return Mode(mode);
  }

  // What the response object repeats.
  void Show() {
    const auto or_null = [&](const char* name) {
      const Json* value = reader_.Find(name);
      return value == nullptr ? Json(nullptr) : *value;
    };
    const auto or_else = [&](const char* name, Json other) {
      const Json* value = reader_.Find(name);
      return value == nullptr ? std::move(other) : *value;
    };
    Json& shown = out_.shown;
    shown["background"] = out_.background;
    shown["instructions"] = or_null("instructions");
    shown["max_output_tokens"] = or_null("max_output_tokens");
    shown["metadata"] = or_else("metadata", Json::object());
    shown["parallel_tool_calls"] = request_.parallel_tool_calls;
    shown["previous_response_id"] = or_null("previous_response_id");
    shown["reasoning"] = Json{{"effort", effort_.empty() ? Json(nullptr) : Json(effort_)},
                              {"summary", summary_.empty() ? Json(nullptr) : Json(summary_)}};
    const auto& priority = request_.sampling.priority;
    shown["service_tier"] = priority ? openai::ServiceTierName(*priority) : "auto";
    shown["store"] = out_.store;
    shown["temperature"] = or_null("temperature");
    shown["text"] = Json{{"format", format_}};
    shown["tool_choice"] = or_else("tool_choice", "auto");
    shown["tools"] = or_else("tools", Json::array());
    shown["top_logprobs"] = or_else("top_logprobs", 0);
    shown["top_p"] = or_null("top_p");
    shown["truncation"] = out_.truncate ? "auto" : "disabled";
  }

  FieldReader reader_;
  ParsedResponse& out_;
  platform::ChatRequest& request_;
  std::string effort_, summary_;
  Json format_;
};

constexpr std::string_view kExample = R"({"model":"m","input":"x"})";
constexpr std::string_view kObjectsExample =
    R"({"model":"m","input":"x","stream":true,"stream_options":{},"text":{"format":{"type":"json_schema","schema":{}}},
    "reasoning":{"effort":"low"},"tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"function","name":"f"}})";
constexpr std::string_view kAllowedExample =
    R"({"model":"m","input":"x","tools":[{"type":"function","name":"f"}],
    "tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f"}]}})";

Result<std::vector<std::string>> Decode(const Json& body) {
  TP_ASSIGN(ParsedResponse parsed, ParseResponse(body));
  return std::move(parsed.ignored);
}

}  // namespace

Result<ParsedResponse> ParseResponse(const Json& body) {
  ParsedResponse parsed;
  TP_TRY(RequestReader(body, parsed).Read());
  return parsed;
}

Status CompleteRequest(ParsedResponse& parsed, const Json& before) {
  Json items = before;
  for (const Json& item : parsed.input) items.push_back(item);
  TP_ASSIGN(Json messages, MessagesOf(items, before.size()));
  if (!parsed.instructions.empty()) {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", parsed.instructions}});
  }
  parsed.request.messages = std::move(messages);
  return {};
}

Json ResponseSchema() { return SchemaOf(kFields, {"model", "input"}); }

DialectRequest ResponseDialect() {
  std::vector<FieldTable> tables = {
      {"", "", "", "", kFields},
      {"stream_options", "", kObjectsExample, "/stream_options", kStreamOptionsFields},
      {"text", "", kObjectsExample, "/text", kTextFields},
      {"text.format", "", kObjectsExample, "/text/format", kFormatFields},
      {"reasoning", "", kObjectsExample, "/reasoning", kReasoningConfigFields},
      {"tools[]", "", kObjectsExample, "/tools/0", kToolFields},
      {"tool_choice", "", kObjectsExample, "/tool_choice", kChoiceFields},
      {"tool_choice.tools[]", "", kAllowedExample, "/tool_choice/tools/0", kAllowedFields},
  };
  for (const FieldTable& table : ItemTables()) tables.push_back(table);
  return {"OpenAI Responses", "POST /v1/responses, POST /v1/responses/input_tokens", kExample,
          std::move(tables), Decode};
}

}  // namespace tidepool::gateway::responses
