#include "gateway/bailian/requests.h"

#include <fmt/format.h>

#include <algorithm>

#include "gateway/openai/messages.h"
#include "gateway/openai/output_format.h"
#include "gateway/openai/sampling_fields.h"
#include "gateway/openai/tools.h"

namespace tidepool::gateway::bailian {
namespace {

using enum openai::FieldType;
using enum openai::Treatment;
using openai::BadField;
using openai::Field;
using openai::FieldReader;
using openai::IsEmptyOrFalse;
using openai::Shown;

constexpr double kMaxTokens = 2147483647;
constexpr size_t kMaxInputs = 2048;
constexpr size_t kMaxHistory = 8192;

const std::vector<Field>& BodyFields() {
  static const std::vector<Field> kFields = {
      {"model", kString, kRead, "The model's id, as GET /v1/models lists it"},
      {"input", kObject, kRead, "What is asked"},
      {"parameters", kObject, kRead, "How it is answered"},
      {"resources", kAny, kIgnored, ""},
  };
  return kFields;
}

const std::vector<Field>& GenerationInputFields() {
  static const std::vector<Field> kFields = {
      {"messages", kArray, kRead, "The conversation, as OpenAI has it"},
      {"prompt", kString, kRead, "Or a question; after messages it is one more user's message"},
      {"history", kArray, kRead, "Older: [{\"user\", \"bot\"}], before prompt"},
  };
  return kFields;
}

// Read means: passed to the OpenAI reader, which checks it.
const std::vector<Field>& GenerationParameterFields() {
  static const std::vector<Field> kFields = {
      {"result_format", kString, kRead,
       "message (output.choices) or text (output.text); default text, with tools message"},
      {"incremental_output", kBoolean, kRead, "Events have only what is new; default false: all so far"},
      {"seed", kInteger, kRead, "Same seed, same random numbers"},
      {"temperature", kNumber, kRead, "0 always takes the likeliest token", 0, 2},
      {"top_p", kNumber, kRead, "Keeps the likeliest tokens whose probabilities reach this sum", 0, 1, true},
      {"top_k", kInteger, kRead, "Keeps this many of the likeliest tokens", -1, kMaxTokens},
      {"repetition_penalty", kNumber, kRead, "Divides the logits of tokens already there", 0, 10, true},
      {"presence_penalty", kNumber, kRead, "Subtracted from logits of tokens already in the answer", -2, 2},
      {"max_tokens", kInteger, kRead, "Most tokens of the answer", 1, kMaxTokens},
      {"stop", kAny, kRead, "A string, strings, token ids or arrays of one token id"},
      {"n", kInteger, kRead, "How many answers", 1, 128},
      {"tools", kArray, kRead, "Functions that the model may call, as OpenAI has them"},
      {"tool_choice", kAny, kRead, "auto, none, or {\"type\": \"function\", \"function\": {name}}"},
      {"parallel_tool_calls", kBoolean, kRead, "false: at most one call an answer"},
      {"tool_call_format", kString, kRead,
       "Not Bailian's: how the model writes calls, as in OpenAI's dialect"},
      {"enable_thinking", kBoolean, kRead, "Passed to the model's chat template"},
      {"thinking_budget", kInteger, kRead, "Tokens of reasoning before it is closed", 0, kMaxTokens},
      {"response_format", kObject, kRead, "As OpenAI has it"},
      {"logprobs", kBoolean, kRead, "Log-probabilities of the answer's tokens"},
      {"top_logprobs", kInteger, kRead, "And of so many likeliest tokens; needs logprobs", 0, 20},
      {"enable_search", kAny, kRefused, "web search is not supported", 0, 0, false, IsEmptyOrFalse},
      {"translation_options", kAny, kRefused, "translation models are not served here"},
      {"enable_code_interpreter", kAny, kRefused, "code is not run here", 0, 0, false, IsEmptyOrFalse},
      {"search_options", kAny, kIgnored, "nothing is searched"},
      {"stream", kAny, kIgnored, "the header X-DashScope-SSE says it"},
      {"vl_high_resolution_images", kAny, kIgnored, ""},
      {"user_agent", kAny, kIgnored, ""},
  };
  return kFields;
}

const std::vector<Field>& EmbeddingInputFields() {
  static const std::vector<Field> kFields = {
      {"texts", kArray, kRead, "Strings, at most 2048"},
  };
  return kFields;
}

const std::vector<Field>& EmbeddingParameterFields() {
  static const std::vector<Field> kFields = {
      {"dimension", kInteger, kRead, "Keeps the first so many numbers and normalises again", 1, 65536},
      {"text_type", kString, kRead, "query or document (default)"},
      {"instruct", kString, kRead,
       "Of queries: what is looked for, put before the text as Qwen3-Embedding has it; other models refuse "
       "it"},
      {"output_type", kAny, kRefused, "only dense vectors are made", 0, 0, false,
       [](const Json& value) { return value == "dense"; }},
      {"user_agent", kAny, kIgnored, ""},
  };
  return kFields;
}

const std::vector<Field>& RerankInputFields() {
  static const std::vector<Field> kFields = {
      {"query", kAny, kRead, "What is looked for"},
      {"documents", kArray, kRead, "Texts to be scored, at most 2048"},
  };
  return kFields;
}

const std::vector<Field>& RerankParameterFields() {
  static const std::vector<Field> kFields = {
      {"top_n", kInteger, kRead, "Only so many of the best", 1, kMaxTokens},
      {"return_documents", kBoolean, kRead, "Results hold their documents; default false"},
      {"instruct", kString, kRead, "What relevant means, of models that read it; of others ignored"},
      {"user_agent", kAny, kIgnored, ""},
  };
  return kFields;
}

struct Parts {
  std::string model;
  Json input, parameters;
  std::vector<std::string> ignored;
};

// Checks the three levels. Errors name "parameters.top_p".
Result<Parts> ReadParts(const Json& body, std::span<const Field> input_fields,
                        std::span<const Field> parameter_fields) {
  FieldReader reader(body, BodyFields());
  TP_TRY(reader.Check());
  Parts out;
  out.ignored = reader.ignored();
  out.model = reader.String("model").value_or("");
  if (out.model.empty()) return Fail(BadField("model", "model is missing.", "missing_field"));
  const Json* input = reader.Find("input");
  if (input == nullptr) return Fail(BadField("input", "input is missing.", "missing_field"));
  out.input = *input;
  out.parameters = Json::object();
  if (const Json* parameters = reader.Find("parameters")) out.parameters = *parameters;
  const auto check = [&](const Json& object, std::span<const Field> table, const char* within) -> Status {
    FieldReader inner(object, table, within);
    return openai::CheckFields(inner, out.ignored);
  };
  TP_TRY(check(out.input, input_fields, "input"));
  TP_TRY(check(out.parameters, parameter_fields, "parameters"));
  return out;
}

constexpr Field kTurnFields[] = {
    {"user", kString, kRead, "What the user said"},
    {"bot", kString, kRead, "What the model answered"},
};

// Where a field of the OpenAI request that ours becomes is in ours: "messages[0].role" is
// "input.messages[0].role".
std::string PlaceInOurs(std::string_view place, std::initializer_list<std::string_view> of_input) {
  if (place.empty() || place == "model" || place.starts_with("input.") || place.starts_with("parameters."))
    return std::string(place);
  const std::string_view first = place.substr(0, place.find_first_of(".["));
  const bool input = std::find(of_input.begin(), of_input.end(), first) != of_input.end();
  if (first == "stop_token_ids") return "parameters.stop";
  return fmt::format("{}.{}", input ? "input" : "parameters", place);
}
Error InOurs(Error error, std::initializer_list<std::string_view> of_input) {
  const std::string place = PlaceInOurs(error.param, of_input);
  if (!error.param.empty() && error.message.starts_with(error.param))
    error.message = place + error.message.substr(error.param.size());
  error.param = place;
  return error;
}

// input.messages, or the older history and prompt, as messages.
Result<Json> ReadConversation(const Json& input, std::vector<std::string>& ignored) {
  FieldReader reader(input, GenerationInputFields());
  Json messages = Json::array();
  if (const Json* given = reader.Find("messages")) messages = *given;
  if (const Json* history = reader.Find("history")) {
    if (history->size() > kMaxHistory) {
      return Fail(
          BadField("input.history", fmt::format("input.history holds {} turns; at most {} are possible.",
                                                history->size(), kMaxHistory)));
    }
    for (size_t i = 0; i < history->size(); ++i) {
      const std::string place = fmt::format("input.history[{}]", i);
      const auto wrong = [&] {
        return Fail(
            BadField(place, fmt::format("{} must be {{\"user\": \"...\", \"bot\": \"...\"}}.", place)));
      };
      if (!(*history)[i].is_object()) return wrong();
      FieldReader turn((*history)[i], kTurnFields, place);
      TP_TRY(openai::CheckFields(turn, ignored));
      const auto user = turn.String("user"), bot = turn.String("bot");
      if (!user || !bot) return wrong();
      messages.push_back({{"role", "user"}, {"content", *user}});
      messages.push_back({{"role", "assistant"}, {"content", *bot}});
    }
  }
  if (const auto prompt = reader.String("prompt")) {
    messages.push_back({{"role", "user"}, {"content", *prompt}});
  }
  if (messages.empty()) {
    return Fail(BadField("input", "input holds neither messages nor a prompt.", "missing_field"));
  }
  return messages;
}

// Bailian's stop is also [token, ..] or [[token], ..], which OpenAI's dialect calls stop_token_ids.
Status MoveStop(Json& request) {
  const auto stop = request.find("stop");
  if (stop == request.end() || !stop->is_array() || stop->empty() || stop->front().is_string()) return {};
  Json tokens = Json::array();
  for (const Json& item : *stop) {
    if (item.is_array() && item.size() != 1) {
      return Fail(
          BadField("parameters.stop",
                   "parameters.stop: sequences of several token ids are not supported; give the text.",
                   "unsupported_parameter"));
    }
    tokens.push_back(item.is_array() ? item.front() : item);
  }
  request.erase("stop");
  request["stop_token_ids"] = std::move(tokens);
  return {};
}

std::vector<std::string> IgnoredOf(const ParsedGeneration& parsed) {
  std::vector<std::string> names = parsed.chat.reply.ignored;
  for (const openai::TemplateMember& member : parsed.chat.reply.template_members)
    names.push_back(member.path);
  return names;
}
std::vector<std::string> IgnoredOf(const ParsedEmbedding& parsed) { return parsed.ignored; }
std::vector<std::string> IgnoredOf(const rerank::ParsedRerank& parsed) { return parsed.ignored; }

template <auto Parse>
Result<std::vector<std::string>> Ignored(const Json& body) {
  TP_ASSIGN(const auto parsed, Parse(body));
  return IgnoredOf(parsed);
}

Json BodySchema(std::span<const Field> input, std::span<const Field> parameters) {
  Json schema = openai::SchemaOf(BodyFields(), {"model", "input"});
  const auto put = [&](const char* name, Json inner) {
    inner["description"] = schema["properties"][name]["description"];
    schema["properties"][name] = std::move(inner);
  };
  put("input", openai::SchemaOf(input, {}));
  put("parameters", openai::SchemaOf(parameters, {}));
  return schema;
}

}  // namespace

Result<ParsedGeneration> ParseGeneration(const Json& body) {
  TP_ASSIGN(Parts parts, ReadParts(body, GenerationInputFields(), GenerationParameterFields()));
  FieldReader parameters(parts.parameters, GenerationParameterFields());
  ParsedGeneration out;
  const auto format = parameters.String("result_format");
  if (format && *format != "message" && *format != "text") {
    return Fail(BadField("parameters.result_format", "parameters.result_format must be message or text."));
  }
  const Json* tools = parameters.Find("tools");
  const bool with_tools = tools != nullptr && !tools->empty();
  if (with_tools && format && *format == "text") {
    return Fail(
        BadField("parameters.result_format", "With tools, parameters.result_format must be message."));
  }
  out.message_format = with_tools || (format && *format == "message");
  if (!out.message_format && parameters.Integer("n").value_or(1) > 1) {
    return Fail(BadField("parameters.n", "With n above 1, parameters.result_format must be message."));
  }
  out.incremental = parameters.Boolean("incremental_output").value_or(false);
  // The rest is OpenAI's, under the same names.
  Json request;
  request["model"] = parts.model;
  TP_ASSIGN(request["messages"], ReadConversation(parts.input, parts.ignored));
  for (const Field& field : GenerationParameterFields()) {
    if (field.treatment != kRead || field.name == "result_format" || field.name == "incremental_output")
      continue;
    if (const Json* value = parameters.Find(field.name)) request[std::string(field.name)] = *value;
  }
  TP_TRY(MoveStop(request));
  auto chat = openai::ParseChat(request);
  if (!chat) return Fail(InOurs(std::move(chat).error(), {"messages"}));
  out.chat = *std::move(chat);
  for (const std::string& name : out.chat.reply.ignored)
    AddIgnored({PlaceInOurs(name, {"messages"})}, parts.ignored);
  out.chat.reply.ignored = std::move(parts.ignored);
  for (openai::TemplateMember& member : out.chat.reply.template_members)
    member.path = PlaceInOurs(member.path, {"messages"});
  return out;
}

Result<ParsedEmbedding> ParseEmbedding(const Json& body) {
  TP_ASSIGN(Parts parts, ReadParts(body, EmbeddingInputFields(), EmbeddingParameterFields()));
  ParsedEmbedding out;
  out.request.model = std::move(parts.model);
  out.ignored = std::move(parts.ignored);
  const FieldReader input(parts.input, EmbeddingInputFields());
  const FieldReader parameters(parts.parameters, EmbeddingParameterFields());
  const Json* texts = input.Find("texts");
  if (texts == nullptr || texts->empty() || texts->size() > kMaxInputs) {
    return Fail(BadField("input.texts", fmt::format("input.texts must hold 1 to {} strings.", kMaxInputs)));
  }
  for (size_t i = 0; i < texts->size(); ++i) {
    const Json& text = (*texts)[i];
    if (!text.is_string() || text == "") {
      const std::string place = fmt::format("input.texts[{}]", i);
      return Fail(BadField(place,
                           fmt::format("{} must be a string that is not empty, not {}.", place, Shown(text)),
                           "invalid_type"));
    }
    out.request.inputs.push_back({text.get<std::string>(), {}, false});
  }
  out.dimensions = static_cast<int32_t>(parameters.Integer("dimension").value_or(0));
  const std::string kind = parameters.String("text_type").value_or("document");
  if (kind != "query" && kind != "document") {
    return Fail(BadField("parameters.text_type", "parameters.text_type must be query or document."));
  }
  const auto instruct = parameters.String("instruct");
  if (instruct && kind == "query") {
    out.request.instruction = *instruct;
  } else if (instruct) {
    out.ignored.emplace_back("parameters.instruct");
  }
  return out;
}

Result<rerank::ParsedRerank> ParseRerank(const Json& body) {
  TP_ASSIGN(Parts parts, ReadParts(body, RerankInputFields(), RerankParameterFields()));
  const FieldReader parameters(parts.parameters, RerankParameterFields());
  Json request;  // the same fields as of /v1/rerank
  request["model"] = parts.model;
  const FieldReader input(parts.input, RerankInputFields());
  for (const char* name : {"query", "documents"}) {
    if (const Json* value = input.Find(name)) request[name] = *value;
  }
  for (const char* name : {"top_n", "return_documents", "instruct"}) {
    if (const Json* value = parameters.Find(name)) request[name] = *value;
  }
  auto parsed = rerank::ParseRerank(request);
  if (!parsed) return Fail(InOurs(std::move(parsed).error(), {"query", "documents"}));
  for (const std::string& name : parsed->ignored)
    AddIgnored({PlaceInOurs(name, {"query", "documents"})}, parts.ignored);
  parsed->ignored = std::move(parts.ignored);
  parsed->instruction_field = PlaceInOurs(parsed->instruction_field, {});
  return parsed;
}

DialectRequest GenerationDialect() {
  constexpr std::string_view kExample = R"({"model":"m","input":{"messages":[{"role":"system","content":"s"},
    {"role":"user","content":[{"type":"text","text":"x"},{"type":"refusal","refusal":"no"}]},
    {"role":"assistant","refusal":"no","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","tool_call_id":"a","content":"y"}],"history":[{"user":"u","bot":"b"}]},
    "parameters":{"tools":[{"type":"function","function":{"name":"f"}}],
      "tool_choice":{"type":"function","function":{"name":"f"}},
      "response_format":{"type":"json_schema","json_schema":{"schema":{}}}}})";
  std::vector<FieldTable> tables = {
      {"", "", "", "", BodyFields()},
      {"input", "", kExample, "/input", GenerationInputFields()},
      {"input.history[]", "", kExample, "/input/history/0", kTurnFields},
      {"parameters", "", kExample, "/parameters", GenerationParameterFields()},
  };
  const auto append = [&](std::vector<FieldTable> more) {
    for (FieldTable& table : more) tables.push_back(std::move(table));
  };
  append(openai::MessageTables("input.messages[]", "/input/messages", kExample));
  append(openai::ToolTables("parameters", kExample));
  append(openai::ResponseFormatTables("parameters", kExample));
  return {"Bailian text generation", "POST /api/v1/services/aigc/text-generation/generation",
          R"({"model":"m","input":{"prompt":"x"},"parameters":{}})", std::move(tables),
          Ignored<ParseGeneration>};
}
DialectRequest EmbeddingDialect() {
  constexpr std::string_view kExample = R"({"model":"m","input":{"texts":["x"]},"parameters":{}})";
  return {"Bailian text embedding",
          "POST /api/v1/services/embeddings/text-embedding/text-embedding",
          kExample,
          {{"", "", "", "", BodyFields()},
           {"input", "", kExample, "/input", EmbeddingInputFields()},
           {"parameters", "", kExample, "/parameters", EmbeddingParameterFields()}},
          Ignored<ParseEmbedding>};
}
DialectRequest RerankDialect() {
  constexpr std::string_view kExample =
      R"({"model":"m","input":{"query":{"text":"x"},"documents":[{"text":"y"}]},"parameters":{}})";
  return {"Bailian text rerank",
          "POST /api/v1/services/rerank/text-rerank/text-rerank",
          kExample,
          {{"", "", "", "", BodyFields()},
           {"input", "", kExample, "/input", RerankInputFields()},
           {"input.query", "", kExample, "/input/query", rerank::TextFields()},
           {"input.documents[]", "", kExample, "/input/documents/0", rerank::TextFields()},
           {"parameters", "", kExample, "/parameters", RerankParameterFields()}},
          Ignored<ParseRerank>};
}

Json RerankSchema() { return BodySchema(RerankInputFields(), RerankParameterFields()); }
Json GenerationSchema() { return BodySchema(GenerationInputFields(), GenerationParameterFields()); }
Json EmbeddingSchema() { return BodySchema(EmbeddingInputFields(), EmbeddingParameterFields()); }

}  // namespace tidepool::gateway::bailian
