#include "gateway/openai/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "gateway/openai/messages.h"
#include "gateway/openai/sampling_fields.h"
#include "gateway/openai/tools.h"

namespace tidepool::gateway::openai {
namespace {

using enum FieldType;
using enum Treatment;

constexpr size_t kMaxPrompts = 128;
constexpr size_t kMaxInputs = 2048;
// OpenAI's own default for /v1/completions.
constexpr int64_t kCompletionMaxTokens = 16;

std::vector<Field> Joined(const std::vector<Field>& first, std::vector<Field> second) {
  second.insert(second.begin(), first.begin(), first.end());
  return second;
}

bool AsksNoTools(const Json& value) { return value == "none" || value == "auto"; }
bool IsTextOnly(const Json& value) { return value == Json::array({"text"}); }
bool IsOne(const Json& value) { return value == 1; }

const std::vector<Field>& ChatFields() {
  static const std::vector<Field> kFields = Joined(
      SamplingFields(),
      {
          {"messages", kArray, kRead, "The conversation: role and content (a string or text parts)"},
          {"max_completion_tokens", kInteger, kRead, "The newer name of max_tokens", 1, 2147483647},
          {"logprobs", kBoolean, kRead, "Log-probabilities of the answer's tokens"},
          {"top_logprobs", kInteger, kRead, "And of so many likeliest tokens; needs logprobs", 0, 20},
          {"enable_thinking", kBoolean, kRead, "Passed to the model's chat template"},
          {"reasoning_effort", kString, kRead,
           "none, minimal, low, medium, high or xhigh: passed to the chat template; none turns thinking off"},
          {"chat_template_kwargs", kObject, kRead, "More variables for the model's chat template"},
          {"tools", kArray, kRead,
           "Functions that the model may call: {\"type\": \"function\", \"function\": {name, description, "
           "parameters, strict}}, at most 512"},
          {"tool_choice", kAny, kRead,
           "auto (default with tools), none, required, or {\"type\": \"function\", \"function\": {name}}"},
          {"parallel_tool_calls", kBoolean, kRead, "false: at most one call an answer; default true"},
          {"tool_call_format", kString, kRead,
           "How the model writes calls, where its template does not tell: hermes, qwen_xml, llama3, mistral, "
           "deepseek, gemma, glm, dsml, kimi or json"},
          {"functions", kAny, kRefused, "use tools", 0, 0, false, IsEmptyOrFalse},
          {"function_call", kAny, kRefused, "use tool_choice", 0, 0, false, AsksNoTools},
          {"modalities", kAny, kRefused, "only [\"text\"] is supported", 0, 0, false, IsTextOnly},
          {"audio", kAny, kRefused, "audio is not supported"},
          {"prediction", kAny, kRefused, "predicted outputs are not supported"},
          {"store", kAny, kRefused, "answers are not stored; only false is possible", 0, 0, false,
           IsEmptyOrFalse},
          {"web_search_options", kAny, kRefused, "web search is not supported"},
          {"enable_search", kAny, kRefused, "web search is not supported", 0, 0, false, IsEmptyOrFalse},
          {"continue_final_message", kBoolean, kRead,
           "The last message, the assistant's, is continued instead of answered; \"prefix\": true in that "
           "message "
           "says the same"},
          {"add_generation_prompt", kBoolean, kRead, "Default: true, unless the last message is continued"},
          {"chat_template", kAny, kRefused, "the model's own chat template is used"},
          {"verbosity", kAny, kIgnored, ""},
      });
  return kFields;
}

const std::vector<Field>& CompletionFields() {
  static const std::vector<Field> kFields = Joined(
      SamplingFields(),
      {
          {"prompt", kAny, kRead, "A string, strings, token ids or arrays of token ids; at most 128 prompts"},
          {"echo", kBoolean, kRead, "The answer begins with the prompt"},
          {"logprobs", kInteger, kRead, "Log-probabilities of the tokens and of so many likeliest ones", 0,
           20},
          {"suffix", kAny, kRefused, "filling in the middle is not supported by the models served here", 0, 0,
           false, IsEmptyOrFalse},
          {"best_of", kAny, kRefused, "best_of is not supported; use n", 0, 0, false, IsOne},
      });
  return kFields;
}

const std::vector<Field>& EmbeddingFields() {
  static const std::vector<Field> kFields = Joined(
      {
          {"model", kString, kRead, "The model's id, as GET /v1/models lists it"},
          {"input", kAny, kRead, "A string, strings, token ids or arrays of token ids; at most 2048 inputs"},
          {"encoding_format", kString, kRead, "float (default) or base64 (little-endian float32)"},
          {"dimensions", kInteger, kRead, "Keeps the first so many numbers and normalises again", 1, 65536},
          {"user", kAny, kIgnored, ""},
      },
      {InstructionFields().begin(), InstructionFields().end()});
  return kFields;
}

const std::vector<Field>& TokenizeFields() {
  static const std::vector<Field> kFields = {
      {"model", kString, kRead, "The model's id, as GET /v1/models lists it"},
      {"text", kString, kRead, "Text to tokenize; `prompt` and `content` are taken too"},
      {"prompt", kString, kRead, "Another name of text"},
      {"content", kString, kRead, "Another name of text"},
      {"messages", kArray, kRead, "Or a conversation: tokenized with the model's chat template"},
      {"add_special", kBoolean, kRead, "Adds the tokens that begin (and end) a text; default true"},
      {"add_special_tokens", kBoolean, kRead, "Another name of add_special"},
      {"parse_special", kBoolean, kRead,
       "Spelled-out control tokens in the text become control tokens; default false"},
      {"enable_thinking", kBoolean, kRead, "Passed to the model's chat template"},
      {"reasoning_effort", kString, kRead, "Passed to the model's chat template"},
      {"chat_template_kwargs", kObject, kRead, "More variables for the model's chat template"},
  };
  return kFields;
}

const std::vector<Field>& DetokenizeFields() {
  static const std::vector<Field> kFields = {
      {"model", kString, kRead, "The model's id, as GET /v1/models lists it"},
      {"tokens", kArray, kRead, "Token ids"},
  };
  return kFields;
}

constexpr Field kStreamOptionsFields[] = {
    {"include_usage", kBoolean, kRead, "true: a last chunk has the usage"},
    {"include_obfuscation", kAny, kIgnored, "chunks are not padded"},
    {"continuous_usage_stats", kAny, kIgnored, "usage comes once, at the end"},
};

Status ReadStreaming(const FieldReader& reader, ReplyOptions& reply) {
  reply.stream = reader.Boolean("stream").value_or(false);
  const Json* options = reader.Find("stream_options");
  if (options == nullptr) return {};
  if (!reply.stream) return Fail(BadField("stream_options", "stream_options needs \"stream\": true."));
  FieldReader inner(*options, kStreamOptionsFields, "stream_options");
  TP_TRY(CheckFields(inner, reply.ignored));
  reply.include_usage = inner.Boolean("include_usage").value_or(false);
  return {};
}

// enable_thinking, reasoning_effort and chat_template_kwargs: what the template sees besides the messages.
Status ReadTemplateVariables(const FieldReader& reader, Json& variables) {
  static constexpr std::string_view kReserved[] = {
      "messages",  "tools",     "documents", "add_generation_prompt",
      "bos_token", "eos_token", "pad_token", "unk_token"};
  if (const auto effort = reader.String("reasoning_effort")) {
    static constexpr std::string_view kEfforts[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    if (std::find(std::begin(kEfforts), std::end(kEfforts), *effort) == std::end(kEfforts)) {
      return Fail(BadField("reasoning_effort",
                           "reasoning_effort must be none, minimal, low, medium, high or xhigh."));
    }
    variables["reasoning_effort"] = *effort;
    if (*effort == "none") variables["enable_thinking"] = false;
  }
  if (const auto thinking = reader.Boolean("enable_thinking")) variables["enable_thinking"] = *thinking;
  const Json* more = reader.Find("chat_template_kwargs");
  if (more == nullptr) return {};
  for (const auto& [key, value] : more->items()) {
    if (std::find(std::begin(kReserved), std::end(kReserved), key) != std::end(kReserved)) {
      return Fail(BadField("chat_template_kwargs", fmt::format("chat_template_kwargs may not set {}.", key)));
    }
    variables[key] = value;
  }
  return {};
}

// An answer that the client began: Tidepool's (and vLLM's) fields, or what the last message says.
void ReadPrefill(const FieldReader& reader, bool continues, platform::ChatRequest& request) {
  if (reader.Boolean("continue_final_message").value_or(false) || continues)
    request.template_variables["continue_final_message"] = true;
  if (const auto add = reader.Boolean("add_generation_prompt"))
    request.template_variables["add_generation_prompt"] = *add;
}

// A prompt or an input: string | [string] | [token] | [[token]].
Result<std::vector<platform::Prompt>> ReadPrompts(const FieldReader& reader, std::string_view name,
                                                  size_t limit, bool refuse_empty_text) {
  const Json* value = reader.Find(name);
  if (value == nullptr) return Fail(BadField(name, fmt::format("{} is missing.", name), "missing_field"));
  std::vector<platform::Prompt> prompts;
  const auto add_text = [&](const Json& text) -> Status {
    platform::Prompt prompt;
    prompt.text = text.get<std::string>();
    if (refuse_empty_text && prompt.text.empty()) {
      return Fail(BadField(name, fmt::format("{} holds an empty string.", name)));
    }
    prompts.push_back(std::move(prompt));
    return {};
  };
  const auto add_tokens = [&](const Json& tokens) -> Status {
    platform::Prompt prompt;
    prompt.is_tokens = true;
    TP_ASSIGN(prompt.tokens, ReadTokens(tokens, name, kMaxPromptTokens));
    if (prompt.tokens.empty())
      return Fail(BadField(name, fmt::format("{} holds an empty array of tokens.", name)));
    prompts.push_back(std::move(prompt));
    return {};
  };
  if (value->is_string()) {
    TP_TRY(add_text(*value));
  } else if (!value->is_array()) {
    return Fail(
        BadField(name,
                 fmt::format("{} must be a string, strings, token ids or arrays of token ids, not {}.", name,
                             Shown(*value)),
                 "invalid_type"));
  } else if (value->empty()) {
    return Fail(BadField(name, fmt::format("{} is an empty array.", name)));
  } else if (value->front().is_number()) {
    TP_TRY(add_tokens(*value));
  } else {
    if (value->size() > limit) {
      return Fail(BadField(
          name, fmt::format("{} holds {} items; at most {} are possible.", name, value->size(), limit)));
    }
    for (const Json& item : *value) {
      if (item.is_string() == value->front().is_string() && item.is_array() == value->front().is_array() &&
          (item.is_string() || item.is_array())) {
        TP_TRY(item.is_string() ? add_text(item) : add_tokens(item));
      } else {
        return Fail(BadField(
            name,
            fmt::format("{} must hold strings only or arrays of token ids only, not {}.", name, Shown(item)),
            "invalid_type"));
      }
    }
  }
  return prompts;
}

// What DialectRequest::decode gives.
std::vector<std::string> WithMembers(std::vector<std::string> ignored,
                                     const std::vector<TemplateMember>& members) {
  for (const TemplateMember& member : members) ignored.push_back(member.path);
  return ignored;
}
std::vector<std::string> IgnoredOf(const ParsedChat& parsed) {
  return WithMembers(parsed.reply.ignored, parsed.reply.template_members);
}
std::vector<std::string> IgnoredOf(const ParsedCompletion& parsed) { return parsed.reply.ignored; }
std::vector<std::string> IgnoredOf(const ParsedEmbedding& parsed) { return parsed.ignored; }
std::vector<std::string> IgnoredOf(const ParsedTokenize& parsed) {
  return WithMembers(parsed.ignored, parsed.template_members);
}
std::vector<std::string> IgnoredOf(const ParsedDetokenize& parsed) { return parsed.ignored; }

template <auto Parse>
Result<std::vector<std::string>> Decode(const Json& body) {
  TP_ASSIGN(const auto parsed, Parse(body));
  return IgnoredOf(parsed);
}

constexpr std::string_view kChatExample =
    R"({"model":"m","stream":true,"stream_options":{"include_usage":true},
  "messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"x"},{"type":"refusal","refusal":"no"}]},
    {"role":"assistant","refusal":"no","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","tool_call_id":"a","content":"y"}],
  "tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"f"}},
  "response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{}}}})";
constexpr std::string_view kStructuredChatExample =
    R"({"model":"m","messages":[{"role":"user","content":"x"}],"structured_outputs":{"json_object":true}})";
constexpr std::string_view kCompletionExample = R"({"model":"m","prompt":"x","stream":true,
  "stream_options":{"include_usage":true},"response_format":{"type":"json_schema","json_schema":{"schema":{}}}})";
constexpr std::string_view kStructuredCompletionExample =
    R"({"model":"m","prompt":"x","structured_outputs":{"json_object":true}})";
constexpr std::string_view kTokenizeExample = R"({"model":"m","messages":[{"role":"system","content":"s"},
  {"role":"user","content":[{"type":"text","text":"x"},{"type":"refusal","refusal":"no"}]},
  {"role":"assistant","refusal":"no",
    "tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":{}}}]},
  {"role":"tool","tool_call_id":"a","content":"y"}]})";

void Append(std::vector<FieldTable> more, std::vector<FieldTable>& to) {
  for (FieldTable& table : more) to.push_back(std::move(table));
}

}  // namespace

Result<ParsedChat> ParseChat(const Json& body) {
  FieldReader reader(body, ChatFields());
  TP_TRY(reader.Check());
  ParsedChat parsed;
  parsed.reply.ignored = reader.ignored();
  TP_ASSIGN(parsed.request.model, ReadModelName(reader));
  const Json* messages = reader.Find("messages");
  if (messages == nullptr) return Fail(BadField("messages", "messages is missing.", "missing_field"));
  MessageNotes notes;
  TP_ASSIGN(parsed.request.messages, ReadMessages(*messages, notes));
  AddIgnored(notes.ignored, parsed.reply.ignored);
  parsed.reply.template_members = std::move(notes.template_members);
  TP_ASSIGN(parsed.request.sampling, ReadSampling(reader, parsed.reply.ignored));
  if (const auto& priority = parsed.request.sampling.priority)
    parsed.reply.service_tier = ServiceTierName(*priority);
  if (const auto tokens = reader.Integer("max_completion_tokens")) {
    const auto& older = parsed.request.sampling.max_tokens;
    if (older && *older != *tokens) {
      return Fail(BadField("max_completion_tokens",
                           "max_completion_tokens and max_tokens differ; send one of them."));
    }
    parsed.request.sampling.max_tokens = tokens;
    const auto& least = parsed.request.sampling.min_tokens;
    if (least && *least > *tokens) {
      return Fail(
          BadField("min_tokens",
                   fmt::format("min_tokens ({}) is more than max_completion_tokens ({}).", *least, *tokens)));
    }
  }
  parsed.reply.logprobs = reader.Boolean("logprobs").value_or(false);
  const auto top = reader.Integer("top_logprobs");
  if (top && !parsed.reply.logprobs) {
    return Fail(BadField("top_logprobs", "top_logprobs needs \"logprobs\": true."));
  }
  if (parsed.reply.logprobs) parsed.request.sampling.top_logprobs = static_cast<int32_t>(top.value_or(0));
  TP_TRY(ReadStreaming(reader, parsed.reply));
  TP_TRY(ReadTemplateVariables(reader, parsed.request.template_variables));
  ReadPrefill(reader, notes.continues, parsed.request);
  TP_TRY(ReadTools(reader, parsed.request, parsed.reply.ignored));
  parsed.reply.tools =
      !parsed.request.tools.empty() && parsed.request.tool_choice != platform::ToolChoice::kNone;
  return parsed;
}

Result<ParsedCompletion> ParseCompletion(const Json& body) {
  FieldReader reader(body, CompletionFields());
  TP_TRY(reader.Check());
  ParsedCompletion parsed;
  parsed.reply.ignored = reader.ignored();
  TP_ASSIGN(parsed.request.model, ReadModelName(reader));
  TP_ASSIGN(parsed.request.prompts, ReadPrompts(reader, "prompt", kMaxPrompts, false));
  TP_ASSIGN(parsed.request.sampling, ReadSampling(reader, parsed.reply.ignored));
  if (const auto& priority = parsed.request.sampling.priority)
    parsed.reply.service_tier = ServiceTierName(*priority);
  platform::SamplingRequest& sampling = parsed.request.sampling;
  if (!sampling.max_tokens) {
    sampling.max_tokens = std::max<int64_t>(kCompletionMaxTokens, sampling.min_tokens.value_or(0));
  }
  if (parsed.request.prompts.size() * static_cast<size_t>(sampling.n) > kMaxPrompts) {
    return Fail(BadField("n", fmt::format("{} prompts with n = {} are more than {} answers.",
                                          parsed.request.prompts.size(), sampling.n, kMaxPrompts)));
  }
  parsed.request.echo = reader.Boolean("echo").value_or(false);
  if (const auto top = reader.Integer("logprobs")) {
    parsed.reply.logprobs = true;
    sampling.top_logprobs = static_cast<int32_t>(*top);
  }
  TP_TRY(ReadStreaming(reader, parsed.reply));
  return parsed;
}

Result<ParsedEmbedding> ParseEmbedding(const Json& body) {
  FieldReader reader(body, EmbeddingFields());
  TP_TRY(reader.Check());
  ParsedEmbedding parsed;
  parsed.ignored = reader.ignored();
  TP_ASSIGN(parsed.request.model, ReadModelName(reader));
  TP_ASSIGN(parsed.request.inputs, ReadPrompts(reader, "input", kMaxInputs, true));
  if (const auto format = reader.String("encoding_format")) {
    if (*format != "float" && *format != "base64") {
      return Fail(BadField("encoding_format", "encoding_format must be float or base64."));
    }
    parsed.base64 = *format == "base64";
  }
  parsed.dimensions = static_cast<int32_t>(reader.Integer("dimensions").value_or(0));
  TP_TRY(ReadInstruction(reader, parsed.instruction, parsed.ignored));
  return parsed;
}

Result<ParsedTokenize> ParseTokenize(const Json& body) {
  FieldReader reader(body, TokenizeFields());
  TP_TRY(reader.Check());
  ParsedTokenize parsed;
  parsed.ignored = reader.ignored();
  TP_ASSIGN(parsed.request.model, ReadModelName(reader));
  int given = 0;
  for (const std::string_view name : {"text", "prompt", "content"}) {
    if (auto text = reader.String(name)) {
      parsed.text = std::move(*text);
      ++given;
    }
  }
  if (const Json* messages = reader.Find("messages")) {
    MessageNotes notes;
    TP_ASSIGN(parsed.request.messages, ReadMessages(*messages, notes));
    AddIgnored(notes.ignored, parsed.ignored);
    parsed.template_members = std::move(notes.template_members);
    if (notes.continues) parsed.request.template_variables["continue_final_message"] = true;
    parsed.chat = true;
    ++given;
  }
  if (given != 1) return Fail(BadField("text", "Send exactly one of text and messages.", "missing_field"));
  parsed.add_special =
      reader.Boolean("add_special").value_or(reader.Boolean("add_special_tokens").value_or(true));
  parsed.parse_special = reader.Boolean("parse_special").value_or(false);
  TP_TRY(ReadTemplateVariables(reader, parsed.request.template_variables));
  return parsed;
}

Result<ParsedDetokenize> ParseDetokenize(const Json& body) {
  FieldReader reader(body, DetokenizeFields());
  TP_TRY(reader.Check());
  ParsedDetokenize parsed;
  parsed.ignored = reader.ignored();
  TP_ASSIGN(parsed.model, ReadModelName(reader));
  const Json* tokens = reader.Find("tokens");
  if (tokens == nullptr) return Fail(BadField("tokens", "tokens is missing.", "missing_field"));
  TP_ASSIGN(parsed.tokens, ReadTokens(*tokens, "tokens", kMaxPromptTokens));
  return parsed;
}

DialectRequest ChatDialect() {
  std::vector<FieldTable> tables = {
      {"", "", "", "", ChatFields()},
      {"stream_options", "", kChatExample, "/stream_options", kStreamOptionsFields},
  };
  Append(MessageTables("messages[]", "/messages", kChatExample), tables);
  Append(ToolTables("", kChatExample), tables);
  Append(ResponseFormatTables("", kChatExample), tables);
  tables.push_back(StructuredOutputsTable(kStructuredChatExample));
  return {"OpenAI chat completions",
          "POST /v1/chat/completions",
          R"({"model":"m","messages":[{"role":"user","content":"x"}]})",
          std::move(tables),
          Decode<ParseChat>,
          "The model's chat template sees messages with all their members; of tools, tool calls and content "
          "parts it sees what is listed here."};
}
DialectRequest CompletionDialect() {
  std::vector<FieldTable> tables = {
      {"", "", "", "", CompletionFields()},
      {"stream_options", "", kCompletionExample, "/stream_options", kStreamOptionsFields},
  };
  Append(ResponseFormatTables("", kCompletionExample), tables);
  tables.push_back(StructuredOutputsTable(kStructuredCompletionExample));
  return {"OpenAI completions", "POST /v1/completions", R"({"model":"m","prompt":"x"})", std::move(tables),
          Decode<ParseCompletion>};
}
DialectRequest EmbeddingDialect() {
  return {"OpenAI embeddings",
          "POST /v1/embeddings",
          R"({"model":"m","input":"x"})",
          {{"", "", "", "", EmbeddingFields()}},
          Decode<ParseEmbedding>};
}
DialectRequest TokenizeDialect() {
  std::vector<FieldTable> tables = {{"", "", "", "", TokenizeFields()}};
  Append(MessageTables("messages[]", "/messages", kTokenizeExample), tables);
  return {"Token ids of a text", "POST /tokenize", R"({"model":"m","text":"x"})", std::move(tables),
          Decode<ParseTokenize>};
}
DialectRequest DetokenizeDialect() {
  return {"Text of token ids",
          "POST /detokenize",
          R"({"model":"m","tokens":[1]})",
          {{"", "", "", "", DetokenizeFields()}},
          Decode<ParseDetokenize>};
}

Json ChatSchema() { return SchemaOf(ChatFields(), {"model", "messages"}); }
Json CompletionSchema() { return SchemaOf(CompletionFields(), {"model", "prompt"}); }
Json EmbeddingSchema() { return SchemaOf(EmbeddingFields(), {"model", "input"}); }
Json TokenizeSchema() { return SchemaOf(TokenizeFields(), {"model"}); }
Json DetokenizeSchema() { return SchemaOf(DetokenizeFields(), {"model", "tokens"}); }

}  // namespace tidepool::gateway::openai
