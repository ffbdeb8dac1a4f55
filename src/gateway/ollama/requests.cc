#include "gateway/ollama/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "gateway/openai/messages.h"
#include "gateway/openai/sampling_fields.h"
#include "gateway/openai/tools.h"

namespace tidepool::gateway::ollama {
namespace {

using enum openai::FieldType;
using enum openai::Treatment;
using openai::BadField;
using openai::Field;
using openai::FieldReader;
using openai::IsEmptyOrFalse;
using openai::Shown;

constexpr double kMaxInteger = 2147483647;
constexpr size_t kMaxModelName = 512;
constexpr std::string_view kListing = "GET /api/tags";
constexpr size_t kMaxInputs = 2048;
constexpr size_t kMaxCallsOfMessage = 1024;  // each result looks for its call
constexpr double kYear = 365.0 * 86400;

const std::vector<Field>& OptionFields() {
  static const std::vector<Field> kFields = [] {
    std::vector<Field> fields = {
        {"num_predict", kInteger, kRead, "Most tokens of the answer; 0 or less: until the context is full",
         -2, kMaxInteger},
        {"temperature", kNumber, kRead, "0 always takes the likeliest token; default: the model's", 0, 2},
        {"top_k", kInteger, kRead, "Keeps this many of the likeliest tokens; 0: all", 0, kMaxInteger},
        {"top_p", kNumber, kRead, "Keeps the likeliest tokens whose probabilities reach this sum", 0, 1,
         true},
        {"min_p", kNumber, kRead, "Drops tokens less likely than this share of the likeliest", 0, 1},
        {"repeat_penalty", kNumber, kRead,
         "Divides the logits of tokens already in prompt or answer; default: the model's, else none", 0, 10,
         true},
        {"presence_penalty", kNumber, kRead, "Subtracted from logits of tokens already in the answer", -2, 2},
        {"frequency_penalty", kNumber, kRead, "Subtracted once for every time a token is in the answer", -2,
         2},
        {"seed", kInteger, kRead, "Same seed, same random numbers; below 0: a random one"},
        {"stop", kAny, kRead, "A string or up to 16 strings that end the answer"},
        {"num_ctx", kAny, kIgnored, "the context is the model's, or what the server's settings allow"},
    };
    // What concerns how Ollama runs a model, and samplers that it has dropped itself.
    for (const std::string_view name :
         {"numa",           "num_batch",  "num_gpu",      "main_gpu",     "low_vram",
          "f16_kv",         "logits_all", "vocab_only",   "use_mmap",     "use_mlock",
          "embedding_only", "num_thread", "num_keep",     "tfs_z",        "typical_p",
          "repeat_last_n",  "mirostat",   "mirostat_tau", "mirostat_eta", "penalize_newline"}) {
      fields.push_back({name, kAny, kIgnored, ""});
    }
    return fields;
  }();
  return kFields;
}

std::vector<Field> WithShared(std::vector<Field> fields) {
  const std::vector<Field> shared = {
      {"model", kString, kRead, "The model's name, as GET /api/tags lists it"},
      {"stream", kBoolean, kRead, "Lines of JSON as the text is made; default true"},
      {"format", kAny, kRead, "\"json\", or a JSON schema that the answer fulfils"},
      {"options", kObject, kRead,
       "temperature, top_k, top_p, min_p, seed, stop, num_predict, repeat_penalty, presence_penalty, "
       "frequency_penalty; others are named in the header Tidepool-Ignored"},
      {"think", kAny, kRead, "true, false, \"low\", \"medium\" or \"high\": passed to the chat template"},
      {"keep_alive", kAny, kRead,
       "Seconds or a duration (\"5m\") that the model stays in memory; below 0: always. An operator's word; "
       "others' is ignored"},
      {"logprobs", kBoolean, kRead, "Log-probabilities of the answer's tokens"},
      {"top_logprobs", kInteger, kRead, "And of so many likeliest tokens; needs logprobs", 0, 20},
  };
  fields.insert(fields.begin(), shared.begin(), shared.end());
  return fields;
}

const std::vector<Field>& ChatFields() {
  static const std::vector<Field> kFields = WithShared({
      {"messages", kArray, kRead, "role, content, thinking, tool_calls, tool_name; none: load the model"},
      {"tools", kArray, kRead, "Functions that the model may call, as OpenAI has them"},
      {"tool_choice", kAny, kRead, "Not Ollama's: as OpenAI has it"},
      {"parallel_tool_calls", kBoolean, kRead, "Not Ollama's: false: at most one call an answer"},
      {"tool_call_format", kString, kRead, "Not Ollama's: how the model writes calls"},
  });
  return kFields;
}

const std::vector<Field>& GenerateFields() {
  static const std::vector<Field> kFields = WithShared({
      {"prompt", kString, kRead, "What is asked; empty: load the model"},
      {"system", kString, kRead, "The system message"},
      {"raw", kBoolean, kRead, "The prompt is continued as it is, without the chat template"},
      {"suffix", kAny, kRefused, "filling in the middle is not supported by the models served here", 0, 0,
       false, IsEmptyOrFalse},
      {"template", kAny, kRefused, "the model's own chat template is used; raw takes a whole prompt", 0, 0,
       false, IsEmptyOrFalse},
      {"context", kAny, kRefused, "send the conversation to /api/chat instead", 0, 0, false, IsEmptyOrFalse},
      {"images", kAny, kRefused, "the models served here read text", 0, 0, false, IsEmptyOrFalse},
      {"width", kAny, kRefused, "images are not made here"},
      {"height", kAny, kRefused, "images are not made here"},
      {"steps", kAny, kRefused, "images are not made here"},
  });
  return kFields;
}

std::vector<Field> WithInstruction(std::vector<Field> fields) {
  for (const Field& field : InstructionFields()) fields.push_back(field);
  return fields;
}

const std::vector<Field>& EmbedFields() {
  static const std::vector<Field> kFields = WithInstruction({
      {"model", kString, kRead, "The model's name, as GET /api/tags lists it"},
      {"input", kAny, kRead, "A string or strings, at most 2048; empty: load the model"},
      {"truncate", kBoolean, kRead, "Cuts inputs that are longer than the model reads; default true"},
      {"dimensions", kInteger, kRead, "Keeps the first so many numbers and normalises again", 0, 65536},
      {"keep_alive", kAny, kRead, "As in /api/chat"},
      {"options", kObject, kIgnored, ""},
  });
  return kFields;
}

const std::vector<Field>& EmbeddingsFields() {
  static const std::vector<Field> kFields = WithInstruction({
      {"model", kString, kRead, "The model's name, as GET /api/tags lists it"},
      {"prompt", kString, kRead, "The text; empty: load the model"},
      {"keep_alive", kAny, kRead, "As in /api/chat"},
      {"options", kObject, kIgnored, ""},
  });
  return kFields;
}

constexpr Field kMessageFields[] = {
    {"role", kString, kRead, "system, user, assistant or tool"},
    {"content", kAny, kRead, "A string (or text parts, as OpenAI has them)"},
    {"thinking", kString, kRead, "Of the assistant: what it thought; the chat template sees it"},
    {"tool_calls", kArray, kRead, "Of the assistant: its calls"},
    {"tool_name", kString, kRead, "Of a tool: whose result it is, if there are several"},
    {"tool_call_id", kString, kRead, "Of a tool: the id of the call, if that had one"},
    {"images", kAny, kRefused, "the models served here read text", 0, 0, false, IsEmptyOrFalse},
};
constexpr Field kCallFields[] = {
    {"id", kString, kRead, "What tool_call_id names; may be left out"},
    {"type", kAny, kAccepted, "Calls are of functions"},
    {"function", kObject, kRead, "name and arguments"},
};
constexpr Field kCalledFields[] = {
    {"name", kString, kRead, "The function's name"},
    {"arguments", kAny, kRead, "An object, or JSON text"},
    {"index", kAny, kIgnored, "calls are in order"},
};

const std::vector<Field>& NameFields() {
  static const std::vector<Field> kFields = {
      {"model", kString, kRead, "The model's name"},
      {"name", kString, kRead, "Older name of model"},
      {"stream", kBoolean, kRead, "Lines of JSON as it goes on; default true"},
      {"verbose", kAny, kIgnored, ""},
      {"insecure", kAny, kRefused, "registries are reached as the server's settings say", 0, 0, false,
       IsEmptyOrFalse},
      {"username", kAny, kIgnored, ""},
      {"password", kAny, kIgnored, ""},
      {"system", kAny, kIgnored, ""},
      {"template", kAny, kIgnored, ""},
      {"options", kAny, kIgnored, ""},
  };
  return kFields;
}

Result<KeepAlive> ReadKeepAlive(const FieldReader& reader) {
  const Json* value = reader.Find("keep_alive");
  if (value == nullptr) return KeepAlive();
  TP_ASSIGN(const double seconds, ParseDuration(*value, "keep_alive"));
  return KeepAlive(seconds);
}

Result<platform::OutputFormat> ReadFormat(const FieldReader& reader) {
  platform::OutputFormat out;
  const Json* format = reader.Find("format");
  if (format == nullptr || *format == "") return out;
  out.param = "format";
  if (*format == "json") {
    out.kind = platform::OutputFormat::Kind::kJsonObject;
  } else if (format->is_object() || format->is_boolean()) {
    out.kind = platform::OutputFormat::Kind::kJsonSchema;
    out.schema = *format;
  } else {
    return Fail(
        BadField("format", fmt::format("format must be \"json\" or a JSON schema, not {}.", Shown(*format))));
  }
  return out;
}

Status ReadThink(const FieldReader& reader, Json& variables) {
  const Json* think = reader.Find("think");
  if (think == nullptr) return {};
  if (think->is_boolean()) {
    variables["enable_thinking"] = *think;
    return {};
  }
  if (*think == "low" || *think == "medium" || *think == "high") {
    variables["enable_thinking"] = true;
    variables["reasoning_effort"] = *think;
    return {};
  }
  return Fail(BadField(
      "think",
      fmt::format("think must be true, false, \"low\", \"medium\" or \"high\", not {}.", Shown(*think))));
}

// `options`: what is read, in the platform's names. The errors say num_predict where the client did.
Status ReadOptions(const FieldReader& body, platform::SamplingRequest& out,
                   std::vector<std::string>& ignored) {
  const Json* options = body.Find("options");
  if (options == nullptr) return {};
  FieldReader reader(*options, OptionFields(), "options");
  TP_TRY(openai::CheckFields(reader, ignored));
  out.temperature = reader.Number("temperature");
  out.top_k = reader.Integer("top_k");
  out.top_p = reader.Number("top_p");
  out.min_p = reader.Number("min_p");
  out.repetition_penalty = reader.Number("repeat_penalty");
  out.presence_penalty = reader.Number("presence_penalty");
  out.frequency_penalty = reader.Number("frequency_penalty");
  if (const auto seed = reader.Integer("seed"); seed && *seed >= 0) out.seed = seed;
  if (const auto tokens = reader.Integer("num_predict"); tokens && *tokens > 0) out.max_tokens = tokens;
  return openai::ReadStop(reader, out.stop);
}

// What chat and generate share besides the conversation.
struct Shared {
  platform::SamplingRequest sampling;
  openai::ReplyOptions reply;
  KeepAlive keep_alive;
};

Result<Shared> ReadShared(const FieldReader& reader) {
  Shared out;
  out.reply.events = false;
  out.reply.ignored = reader.ignored();
  out.reply.stream = reader.Boolean("stream").value_or(true);
  TP_TRY(ReadOptions(reader, out.sampling, out.reply.ignored));
  TP_ASSIGN(out.sampling.output, ReadFormat(reader));
  TP_ASSIGN(out.keep_alive, ReadKeepAlive(reader));
  out.reply.logprobs = reader.Boolean("logprobs").value_or(false);
  const auto top = reader.Integer("top_logprobs");
  if (top && *top > 0 && !out.reply.logprobs) {
    return Fail(BadField("top_logprobs", "top_logprobs needs \"logprobs\": true."));
  }
  if (out.reply.logprobs) out.sampling.top_logprobs = static_cast<int32_t>(top.value_or(0));
  return out;
}

// Ollama's calls have no ids, and a result names its tool: each result takes the first call of that name that
// still waits, or without a name the first that waits.
class CallIds {
 public:
  std::string Call(std::string id, std::string name) {
    if (id.empty()) id = fmt::format("call_{}", next_++);
    waiting_.emplace_back(std::move(name), id);
    return id;
  }
  Result<std::string> Answer(const FieldReader& message, const std::string& place) {
    const std::string id = message.String("tool_call_id").value_or("");
    const std::string name = message.String("tool_name").value_or("");
    const auto found = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& call) {
      if (!id.empty()) return call.second == id;
      return name.empty() || call.first == name;
    });
    if (found == waiting_.end()) {
      return Fail(
          BadField(place,
                   fmt::format("{}: no tool call{} before it still waits for its result.", place,
                               name.empty() ? std::string() : fmt::format(" of \"{}\"", name.substr(0, 64))),
                   "unknown_tool_call"));
    }
    std::string answered = found->second;
    waiting_.erase(found);
    return answered;
  }
  void Forget() { waiting_.clear(); }

 private:
  int next_ = 0;
  std::vector<std::pair<std::string, std::string>> waiting_;  // name, id
};

// One of tool_calls, as OpenAI has it.
Result<Json> ConvertedCall(const Json& call, const std::string& place, CallIds& ids,
                           std::vector<std::string>& ignored) {
  if (!call.is_object()) return call;  // the checks say so
  FieldReader reader(call, kCallFields, place);
  TP_TRY(openai::CheckFields(reader, ignored));
  Json out = Json::object();
  Json function = Json::object();
  std::string name;
  if (const Json* given = reader.Find("function")) {
    FieldReader called(*given, kCalledFields, place + ".function");
    TP_TRY(openai::CheckFields(called, ignored));
    name = called.String("name").value_or("");
    function["name"] = name;
    if (const Json* arguments = called.Find("arguments")) function["arguments"] = *arguments;
  }
  out["id"] = ids.Call(reader.String("id").value_or(""), std::move(name));
  out["type"] = "function";
  out["function"] = std::move(function);
  return out;
}

// Messages as OpenAI has them, which openai::ReadMessages then checks.
Result<Json> Converted(const Json& messages, openai::ReplyOptions& reply) {
  Json out = messages;
  CallIds ids;
  for (size_t i = 0; i < out.size(); ++i) {
    Json& message = out[i];
    if (!message.is_object()) continue;  // the checks say so
    const std::string place = fmt::format("messages[{}]", i);
    FieldReader reader(messages[i], kMessageFields, place, openai::Unlisted::kTemplate);
    TP_TRY(openai::CheckFields(reader, reply.ignored));
    AddTemplateMembers(reader.template_members(), reply.template_members);
    message.erase("images");
    message.erase("thinking");
    message.erase("tool_name");
    if (const auto thinking = reader.String("thinking"); thinking && !thinking->empty()) {
      message["reasoning_content"] = *thinking;
      AddTemplateMembers({{"messages[].thinking", "reasoning_content"}}, reply.template_members);
    }
    if (!reader.Has("content")) message["content"] = "";
    if (reader.String("role") == "tool") {
      TP_ASSIGN(std::string id, ids.Answer(reader, place));
      message["tool_call_id"] = std::move(id);
      if (const auto name = reader.String("tool_name")) message["name"] = *name;
    } else {
      ids.Forget();
    }
    const Json* calls = reader.Find("tool_calls");
    message.erase("tool_calls");
    if (calls == nullptr || calls->empty()) continue;
    if (calls->size() > kMaxCallsOfMessage) {
      return Fail(BadField(place + ".tool_calls",
                           fmt::format("{}.tool_calls holds {} calls; at most {} are possible.", place,
                                       calls->size(), kMaxCallsOfMessage)));
    }
    Json converted = Json::array();
    for (size_t j = 0; j < calls->size(); ++j) {
      TP_ASSIGN(Json call,
                ConvertedCall((*calls)[j], fmt::format("{}.tool_calls[{}]", place, j), ids, reply.ignored));
      converted.push_back(std::move(call));
    }
    message["tool_calls"] = std::move(converted);
  }
  openai::MessageNotes notes;  // its members are those that were noted above, under OpenAI's names
  TP_ASSIGN(Json read, openai::ReadMessages(out, notes));
  AddIgnored(notes.ignored, reply.ignored);
  return read;
}

// As Ollama does: an assistant's text at the end is continued.
bool EndsWithAnswerBegun(const Json& messages) {
  const Json& last = messages.back();
  return last["role"] == "assistant" && !last.contains("tool_calls") && last["content"].is_string() &&
         last["content"] != "";
}

std::vector<std::string> IgnoredOf(const ParsedChat& parsed) {
  std::vector<std::string> names = parsed.reply.ignored;
  for (const openai::TemplateMember& member : parsed.reply.template_members) names.push_back(member.path);
  return names;
}
std::vector<std::string> IgnoredOf(const ParsedGenerate& parsed) { return parsed.reply.ignored; }
std::vector<std::string> IgnoredOf(const ParsedEmbed& parsed) { return parsed.ignored; }
std::vector<std::string> IgnoredOf(const ParsedName& parsed) { return parsed.ignored; }

template <auto Parse>
Result<std::vector<std::string>> Ignored(const Json& body) {
  TP_ASSIGN(const auto parsed, Parse(body));
  return IgnoredOf(parsed);
}

Json ObjectSchema(const std::vector<Field>& fields, std::initializer_list<std::string_view> required) {
  Json schema = openai::SchemaOf(fields, required);
  if (schema["properties"].contains("keep_alive")) {
    schema["properties"]["keep_alive"]["type"] = Json::array({"string", "number", "null"});
  }
  return schema;
}

}  // namespace

Result<double> ParseDuration(const Json& value, std::string_view name) {
  const auto bad = [&] {
    return Fail(BadField(
        name, fmt::format("{} must be seconds or a duration such as \"5m\", not {}.", name, Shown(value))));
  };
  double seconds = 0;
  if (value.is_number()) {
    seconds = value.get<double>();
  } else if (!value.is_string()) {
    return bad();
  } else {
    std::string_view rest = value.get_ref<const std::string&>();
    const bool negative = rest.starts_with('-');
    if (negative) rest.remove_prefix(1);
    if (rest.empty()) return bad();
    while (!rest.empty()) {
      double number = 0;
      const auto [end, problem] =
          std::from_chars(rest.data(), rest.data() + rest.size(), number, std::chars_format::fixed);
      if (problem != std::errc() || number < 0) return bad();
      rest.remove_prefix(static_cast<size_t>(end - rest.data()));
      static constexpr std::pair<std::string_view, double> kUnits[] = {
          {"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}};
      const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                     [&](const auto& u) { return rest.starts_with(u.first); });
      // (A number alone, which Go refuses, clients send as seconds.)
      if (unit == std::end(kUnits) && !rest.empty()) return bad();
      seconds += number * (unit == std::end(kUnits) ? 1 : unit->second);
      if (unit != std::end(kUnits)) rest.remove_prefix(unit->first.size());
    }
    if (negative) seconds = -seconds;
  }
  if (!std::isfinite(seconds)) return bad();
  return std::clamp(seconds, -1.0, kYear);
}

Result<ParsedChat> ParseChat(const Json& body) {
  FieldReader reader(body, ChatFields());
  TP_TRY(reader.Check());
  ParsedChat parsed;
  TP_ASSIGN(parsed.request.model, ReadModelName(reader, kListing));
  TP_ASSIGN(Shared shared, ReadShared(reader));
  parsed.request.sampling = std::move(shared.sampling);
  parsed.reply = std::move(shared.reply);
  parsed.keep_alive = shared.keep_alive;
  TP_TRY(ReadThink(reader, parsed.request.template_variables));
  TP_TRY(openai::ReadTools(reader, parsed.request, parsed.reply.ignored));
  parsed.reply.tools =
      !parsed.request.tools.empty() && parsed.request.tool_choice != platform::ToolChoice::kNone;
  const Json* messages = reader.Find("messages");
  parsed.load_only = messages == nullptr || messages->empty();
  if (parsed.load_only) return parsed;
  TP_ASSIGN(parsed.request.messages, Converted(*messages, parsed.reply));
  if (EndsWithAnswerBegun(parsed.request.messages)) {
    parsed.request.template_variables["continue_final_message"] = true;
  }
  return parsed;
}

Result<ParsedGenerate> ParseGenerate(const Json& body) {
  FieldReader reader(body, GenerateFields());
  TP_TRY(reader.Check());
  ParsedGenerate parsed;
  TP_ASSIGN(parsed.chat.model, ReadModelName(reader, kListing));
  TP_ASSIGN(Shared shared, ReadShared(reader));
  parsed.reply = std::move(shared.reply);
  parsed.keep_alive = shared.keep_alive;
  parsed.raw = reader.Boolean("raw").value_or(false);
  TP_TRY(ReadThink(reader, parsed.chat.template_variables));
  const std::string prompt = reader.String("prompt").value_or("");
  const std::string system = reader.String("system").value_or("");
  parsed.load_only = prompt.empty();
  if (parsed.load_only) return parsed;
  if (parsed.raw) {
    if (!system.empty()) {
      return Fail(BadField("system", "system has no place in a raw prompt; write it into the prompt."));
    }
    parsed.completion.model = parsed.chat.model;
    parsed.completion.prompts.push_back({prompt, {}, false});
    parsed.completion.parse_special = true;
    parsed.completion.sampling = std::move(shared.sampling);
    return parsed;
  }
  parsed.chat.sampling = std::move(shared.sampling);
  parsed.chat.messages = Json::array();
  if (!system.empty()) parsed.chat.messages.push_back({{"role", "system"}, {"content", system}});
  parsed.chat.messages.push_back({{"role", "user"}, {"content", prompt}});
  return parsed;
}

Result<ParsedEmbed> ParseEmbed(const Json& body) {
  FieldReader reader(body, EmbedFields());
  TP_TRY(reader.Check());
  ParsedEmbed parsed;
  parsed.ignored = reader.ignored();
  TP_ASSIGN(parsed.request.model, ReadModelName(reader, kListing));
  TP_ASSIGN(parsed.keep_alive, ReadKeepAlive(reader));
  parsed.request.truncate = reader.Boolean("truncate").value_or(true);
  parsed.dimensions = static_cast<int32_t>(reader.Integer("dimensions").value_or(0));
  TP_TRY(ReadInstruction(reader, parsed.instruction, parsed.ignored));
  const Json* input = reader.Find("input");
  if (input == nullptr || *input == "") return parsed;
  const auto add = [&](const Json& item, const std::string& place) -> Status {
    if (!item.is_string() || item == "") {
      return Fail(BadField(place,
                           fmt::format("{} must be a string that is not empty, not {}.", place, Shown(item)),
                           "invalid_type"));
    }
    parsed.request.inputs.push_back({item.get<std::string>(), {}, false});
    return {};
  };
  if (!input->is_array()) {
    TP_TRY(add(*input, "input"));
    return parsed;
  }
  if (input->size() > kMaxInputs) {
    return Fail(BadField(
        "input", fmt::format("input holds {} texts; at most {} are possible.", input->size(), kMaxInputs)));
  }
  for (size_t i = 0; i < input->size(); ++i) TP_TRY(add((*input)[i], fmt::format("input[{}]", i)));
  return parsed;
}

Result<ParsedEmbed> ParseEmbeddings(const Json& body) {
  FieldReader reader(body, EmbeddingsFields());
  TP_TRY(reader.Check());
  ParsedEmbed parsed;
  parsed.ignored = reader.ignored();
  TP_ASSIGN(parsed.request.model, ReadModelName(reader, kListing));
  TP_ASSIGN(parsed.keep_alive, ReadKeepAlive(reader));
  parsed.request.truncate = true;
  TP_TRY(ReadInstruction(reader, parsed.instruction, parsed.ignored));
  std::string prompt = reader.String("prompt").value_or("");
  if (!prompt.empty()) parsed.request.inputs.push_back({std::move(prompt), {}, false});
  return parsed;
}

Result<ParsedName> ParseName(const Json& body) {
  FieldReader reader(body, NameFields());
  TP_TRY(reader.Check());
  ParsedName parsed;
  parsed.ignored = reader.ignored();
  parsed.stream = reader.Boolean("stream").value_or(true);
  const auto older = reader.String("name");
  if (!reader.Has("model") && older && !older->empty()) {
    if (older->size() > kMaxModelName) return Fail(BadField("name", "name is too long."));
    parsed.model = *older;
    return parsed;
  }
  TP_ASSIGN(parsed.model, ReadModelName(reader, kListing));
  return parsed;
}

DialectRequest ChatDialect() {
  constexpr std::string_view kExample = R"({"model":"m","options":{"seed":1},
    "messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{}}}]},
      {"role":"tool","tool_name":"f","content":"y"}],
    "tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"f"}}})";
  std::vector<FieldTable> tables = {
      {"", "", "", "", ChatFields()},
      {"options", "", kExample, "/options", OptionFields()},
      {"messages[]", "", kExample, "/messages/1", kMessageFields},
      {"messages[].tool_calls[]", "", kExample, "/messages/1/tool_calls/0", kCallFields},
      {"messages[].tool_calls[].function", "", kExample, "/messages/1/tool_calls/0/function", kCalledFields},
  };
  for (FieldTable& table : openai::ToolTables("", kExample)) tables.push_back(std::move(table));
  return {"Ollama chat",
          "POST /api/chat",
          R"({"model":"m","messages":[{"role":"user","content":"x"}]})",
          std::move(tables),
          Ignored<ParseChat>,
          "`format` may be a JSON schema. The model's chat template sees messages with all their members."};
}
DialectRequest GenerateDialect() {
  return {"Ollama generate",
          "POST /api/generate",
          R"({"model":"m","prompt":"x"})",
          {{"", "", "", "", GenerateFields()},
           {"options", "", R"({"model":"m","prompt":"x","options":{"seed":1}})", "/options", OptionFields()}},
          Ignored<ParseGenerate>};
}
DialectRequest EmbedDialect() {
  return {"Ollama embed",
          "POST /api/embed",
          R"({"model":"m","input":"x"})",
          {{"", "", "", "", EmbedFields()}},
          Ignored<ParseEmbed>};
}
DialectRequest EmbeddingsDialect() {
  return {"Ollama embeddings (older)",
          "POST /api/embeddings",
          R"({"model":"m","prompt":"x"})",
          {{"", "", "", "", EmbeddingsFields()}},
          Ignored<ParseEmbeddings>};
}
DialectRequest NameDialect() {
  return {"Ollama show, pull and delete",
          "POST /api/show, POST /api/pull, DELETE /api/delete",
          R"({"model":"m"})",
          {{"", "", "", "", NameFields()}},
          Ignored<ParseName>};
}

Json ChatSchema() { return ObjectSchema(ChatFields(), {"model"}); }
Json GenerateSchema() { return ObjectSchema(GenerateFields(), {"model"}); }
Json EmbedSchema() { return ObjectSchema(EmbedFields(), {"model"}); }
Json EmbeddingsSchema() { return ObjectSchema(EmbeddingsFields(), {"model"}); }
Json NameSchema() { return ObjectSchema(NameFields(), {}); }

}  // namespace tidepool::gateway::ollama
