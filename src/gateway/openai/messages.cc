#include "gateway/openai/messages.h"

#include <fmt/format.h>

#include <functional>
#include <set>
#include <string>

namespace tidepool::gateway::openai {
namespace {

constexpr size_t kMaxMessages = 16384;
using enum FieldType;
using enum Treatment;

constexpr Field kRole = {"role", kString, kRead, "system, developer, user, assistant or tool"};
constexpr Field kContent = {"content", kAny, kRead, "A string, or text parts"};
constexpr Field kName = {"name", kString, kTemplate, "Whose message it is"};

constexpr Field kSystemFields[] = {kRole, kContent, kName};  // developer too
constexpr Field kUserFields[] = {kRole, kContent, kName};
constexpr Field kAssistantFields[] = {
    kRole,
    {"content", kAny, kRead,
     "A string, or text and refusal parts; may be missing where tool_calls, a refusal or reasoning is there"},
    kName,
    {"refusal", kString, kRead, "The content, where that is missing"},
    {"tool_calls", kArray, kRead, "Calls that the model made"},
    {"reasoning_content", kString, kTemplate, "What the model thought before it answered"},
    {"reasoning", kString, kRead, "vLLM's newer name of reasoning_content"},
    {"prefix", kBoolean, kRead, "DeepSeek's: true in the last message continues it"},
    {"partial", kBoolean, kRead, "Bailian's name of prefix"},
    {"annotations", kAny, kIgnored, "answers have none"},
    {"function_call", kAny, kRefused, "use tool_calls"},
    {"audio", kAny, kRefused, "audio is not supported"},
};
constexpr Field kResultFields[] = {
    kRole,
    kContent,
    kName,
    {"tool_call_id", kString, kRead, "The id of a call of the assistant's last turn"}};
constexpr Field kPartFields[] = {
    {"type", kString, kRead, "text or refusal; image_url, input_audio, file and video_url are refused"},
    {"text", kString, kRead, "With type text"},
    {"refusal", kString, kRead, "With type refusal: shown to the model as text"},
    {"image_url", kAny, kRefused, "the models served here read text"},
    {"input_audio", kAny, kRefused, "the models served here read text"},
    {"file", kAny, kRefused, "the models served here read text"},
    {"video_url", kAny, kRefused, "the models served here read text"},
};
constexpr Field kCallFields[] = {
    {"id", kString, kRead, "What the result names"},
    {"type", kString, kRead, "function; may be left out"},
    {"function", kObject, kRead, "name and arguments"},
    {"index", kAny, kIgnored, "calls are in order"},
};
constexpr Field kCalledFields[] = {
    {"name", kString, kRead, "The function's name"},
    {"arguments", kAny, kRead, "JSON text, or an object"},
};

std::span<const Field> FieldsOf(std::string_view role) {
  if (role == "system" || role == "developer") return kSystemFields;
  if (role == "user") return kUserFields;
  if (role == "assistant") return kAssistantFields;
  if (role == "tool") return kResultFields;
  return {};
}

std::string_view StringOf(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? std::string_view(found->get_ref<const std::string&>())
                                                     : std::string_view();
}

Error NoObject(const std::string& place, const Json& value) {
  return BadField(place, fmt::format("{} must be an object, not {}.", place, Shown(value)), "invalid_type");
}

// As {"type": "text", "text"}: what templates know.
Result<Json> ReadPart(const Json& part, const std::string& place, std::vector<std::string>& ignored) {
  if (!part.is_object()) {
    return Fail(BadField(place, fmt::format("{} must be an object with a type, not {}.", place, Shown(part)),
                         "invalid_type"));
  }
  const std::string_view media = StringOf(part, "type");
  if (media == "image_url" || media == "input_audio" || media == "file" || media == "video_url") {
    return Fail(BadField(
        place + ".type",
        fmt::format("{}.type: \"{}\" is not supported; the models served here read text.", place, media),
        "unsupported_content"));
  }
  FieldReader reader(part, kPartFields, place);
  TP_TRY(CheckFields(reader, ignored));
  const std::string type = reader.String("type").value_or("");
  if (type != "text" && type != "refusal")
    return Fail(BadField(place + ".type", fmt::format("{}.type must be \"text\".", place)));
  auto text = reader.String(type);
  if (!text) {
    return Fail(BadField(fmt::format("{}.{}", place, type),
                         fmt::format("{}.{} must be a string.", place, type), "invalid_type"));
  }
  return Json{{"type", "text"}, {"text", *std::move(text)}};
}

Status ReadContent(const FieldReader& reader, Json& message, const std::string& place,
                   std::vector<std::string>& ignored) {
  const std::string where = place + ".content";
  if (!reader.Has("content")) {
    const bool assistant = reader.Lists("tool_calls");
    if (assistant && reader.Has("refusal")) {
      message["content"] = *reader.String("refusal");
      return {};
    }
    if (assistant && (reader.Has("tool_calls") || reader.Has("reasoning_content") || reader.Has("reasoning")))
      return {};
    return Fail(BadField(where, fmt::format("{} is missing.", where), "missing_field"));
  }
  const Json& content = *reader.Find("content");
  if (content.is_string()) return {};
  if (!content.is_array()) {
    return Fail(BadField(
        where, fmt::format("{} must be a string or an array of parts, not {}.", where, Shown(content)),
        "invalid_type"));
  }
  if (content.empty()) return Fail(BadField(where, fmt::format("{} is an empty array.", where)));
  Json parts = Json::array();
  for (size_t i = 0; i < content.size(); ++i) {
    TP_ASSIGN(Json part, ReadPart(content[i], fmt::format("{}[{}]", where, i), ignored));
    parts.push_back(std::move(part));
  }
  message["content"] = std::move(parts);
  return {};
}

// {"id", "type", "function": {"name", "arguments"}}, as far as they are there.
Result<Json> ReadCall(const Json& call, const std::string& place, std::vector<std::string>& ignored) {
  const auto bad = [&] {
    return Fail(
        BadField(place, fmt::format("{} must be {{\"id\", \"type\": \"function\", \"function\": {{\"name\", "
                                    "\"arguments\"}}}}.",
                                    place)));
  };
  if (!call.is_object()) return bad();
  FieldReader reader(call, kCallFields, place);
  TP_TRY(CheckFields(reader, ignored));
  const Json* function = reader.Find("function");
  if (function == nullptr) return bad();
  FieldReader called(*function, kCalledFields, place + ".function");
  TP_TRY(CheckFields(called, ignored));
  const std::string name = called.String("name").value_or("");
  const Json* arguments = called.Find("arguments");
  if (name.empty() || arguments == nullptr || !(arguments->is_string() || arguments->is_object()))
    return bad();
  Json out = Json::object();
  for (const char* member : {"id", "type"}) {
    if (const Json* value = reader.Find(member)) out[member] = *value;
  }
  out["function"] = Json{{"name", name}, {"arguments", *arguments}};
  return out;
}

Status ReadAssistant(const FieldReader& reader, Json& message, const std::string& place,
                     MessageNotes& notes) {
  if (const Json* calls = reader.Find("tool_calls")) {
    Json out = Json::array();
    for (size_t i = 0; i < calls->size(); ++i) {
      TP_ASSIGN(Json call, ReadCall((*calls)[i], fmt::format("{}.tool_calls[{}]", place, i), notes.ignored));
      out.push_back(std::move(call));
    }
    message["tool_calls"] = std::move(out);
  }
  for (const char* name : {"prefix", "partial"}) {
    notes.continues = reader.Boolean(name).value_or(false) || notes.continues;
    message.erase(name);
  }
  const auto reasoning = reader.String("reasoning");
  if (reasoning && !reader.Has("reasoning_content")) {
    message["reasoning_content"] = *reasoning;
    AddTemplateMembers({{"messages[].reasoning", "reasoning_content"}}, notes.template_members);
  }
  return {};
}

// A result belongs to a call of the assistant's last turn, and each call has one result.
Status CheckResult(const FieldReader& reader, const std::string& place,
                   std::set<std::string, std::less<>>& open) {
  const std::string id = reader.String("tool_call_id").value_or("");
  const std::string where = place + ".tool_call_id";
  if (id.empty()) return Fail(BadField(where, fmt::format("{} is missing.", where), "missing_field"));
  const auto found = open.find(id);
  if (found == open.end()) {
    return Fail(BadField(
        where,
        fmt::format("{}: the assistant message before it has no tool call \"{}\" that still waits for its "
                    "result.",
                    where, id.substr(0, 64)),
        "unknown_tool_call"));
  }
  open.erase(found);
  return {};
}

}  // namespace

Result<Json> ReadMessages(const Json& messages, MessageNotes& notes) {
  if (!messages.is_array()) {
    return Fail(BadField("messages", fmt::format("messages must be an array, not {}.", Shown(messages)),
                         "invalid_type"));
  }
  if (messages.empty()) return Fail(BadField("messages", "messages is empty; send at least one message."));
  if (messages.size() > kMaxMessages) {
    return Fail(BadField(
        "messages", fmt::format("{} messages; at most {} are possible.", messages.size(), kMaxMessages)));
  }
  Json out = messages;
  std::set<std::string, std::less<>> open;  // ids of calls without a result
  for (size_t i = 0; i < out.size(); ++i) {
    const Json& given = messages[i];
    Json& message = out[i];
    const std::string place = fmt::format("messages[{}]", i);
    if (!given.is_object()) return Fail(NoObject(place, given));
    const std::string_view role = StringOf(given, "role");
    const std::span<const Field> fields = FieldsOf(role);
    if (fields.empty()) {
      const auto wrong = given.find("role");
      const bool other = wrong != given.end() && !wrong->is_null() && !wrong->is_string();
      return Fail(BadField(place + ".role",
                           fmt::format("{}.role must be system, developer, user, assistant or tool.", place),
                           other ? "invalid_type" : "invalid_value"));
    }
    notes.continues = false;
    FieldReader reader(given, fields, place, Unlisted::kTemplate);
    TP_TRY(CheckFields(reader, notes.ignored));
    AddTemplateMembers(reader.template_members(), notes.template_members);
    TP_TRY(ReadContent(reader, message, place, notes.ignored));
    if (role == "assistant") TP_TRY(ReadAssistant(reader, message, place, notes));
    if (role == "tool") {
      TP_TRY(CheckResult(reader, place, open));
    } else {
      open.clear();
      if (role == "assistant" && reader.Has("tool_calls")) {
        for (const Json& call : message["tool_calls"]) open.emplace(StringOf(call, "id"));
      }
    }
    if (role == "developer") message["role"] = "system";
  }
  return out;
}

std::vector<FieldTable> MessageTables(std::string_view place, std::string_view pointer,
                                      std::string_view example) {
  const auto at = [&](std::string_view more) { return fmt::format("{}{}", pointer, more); };
  const auto within = [&](std::string_view more) { return fmt::format("{}{}", place, more); };
  return {
      {within(""), "role: system or developer", example, at("/0"), kSystemFields},
      {within(""), "role: user", example, at("/1"), kUserFields},
      {within(""), "role: assistant", example, at("/2"), kAssistantFields},
      {within(""), "role: tool", example, at("/3"), kResultFields},
      {within(".content[]"), "", example, at("/1/content/0"), kPartFields},
      {within(".tool_calls[]"), "", example, at("/2/tool_calls/0"), kCallFields},
      {within(".tool_calls[].function"), "", example, at("/2/tool_calls/0/function"), kCalledFields},
  };
}

}  // namespace tidepool::gateway::openai
