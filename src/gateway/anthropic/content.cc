#include "gateway/anthropic/content.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace tidepool::gateway::anthropic {
namespace {

using enum FieldType;
using enum Treatment;

constexpr size_t kMaxMessages = 100'000;  // Anthropic's own limit

constexpr Field kCacheControl = {"cache_control", kObject, kAccepted,
                                 "Prefixes are found in the cache without it"};

constexpr Field kMessageFields[] = {
    {"role", kString, kRead, "user or assistant; system for instructions within the conversation"},
    {"content", kAny, kRead, "A string, or blocks: text, document, tool_use, tool_result, thinking"},
};
constexpr Field kTextFields[] = {
    {"type", kString, kRead, "text"},
    {"text", kString, kRead, "The text"},
    kCacheControl,
    {"citations", kAny, kIgnored, "answers do not cite"},
};
constexpr Field kCacheControlFields[] = {
    {"type", kString, kAccepted, "ephemeral"},
    {"ttl", kString, kAccepted, "Prefixes stay as long as there is room"},
};
constexpr Field kSourceFields[] = {
    {"type", kString, kRead, "text or content; base64, url and file are refused"},
    {"media_type", kString, kAccepted, "text/plain"},
    {"data", kString, kRead, "With type text: the text"},
    {"content", kAny, kRead, "With type content: a string or text blocks"},
    {"url", kAny, kRefused, "the server fetches nothing; send the text"},
    {"file_id", kAny, kRefused, "there are no stored files; send the text"},
};
constexpr Field kDocumentFields[] = {
    {"type", kString, kRead, "document"},
    {"source", kObject, kRead,
     "{\"type\": \"text\", \"media_type\": \"text/plain\", \"data\"} or {\"type\": \"content\", \"content\": "
     "text}; PDF is refused"},
    {"title", kString, kRead, "Put before the text"},
    {"context", kString, kRead, "Put before the text"},
    kCacheControl,
    {"citations", kAny, kIgnored, "answers do not cite"},
};
constexpr Field kToolUseFields[] = {
    {"type", kString, kRead, "tool_use"},
    {"id", kString, kRead, "What the result names"},
    {"name", kString, kRead, "The tool's name"},
    {"input", kObject, kRead, "Its arguments"},
    kCacheControl,
    {"caller", kAny, kIgnored, ""},
};
constexpr Field kToolResultFields[] = {
    {"type", kString, kRead, "tool_result"},
    {"tool_use_id", kString, kRead, "The id of a call of the turn before"},
    {"content", kAny, kRead, "A string or text blocks"},
    {"is_error", kBoolean, kRead, "true: the result begins with \"Error: \""},
    kCacheControl,
};
constexpr Field kThinkingFields[] = {
    {"type", kString, kRead, "thinking"},
    {"thinking", kString, kRead,
     "Goes back to the model as far as its chat template shows earlier reasoning"},
    {"signature", kString, kAccepted, "Not checked"},
};
constexpr Field kRedactedFields[] = {
    {"type", kString, kRead, "redacted_thinking"},
    {"data", kString, kAccepted, "It says nothing to the models served here"},
};

Error Missing(std::string place) {
  std::string message = fmt::format("{} is missing.", place);
  return BadField(place, std::move(message), "missing_field");
}

Error WrongType(const std::string& place, std::string_view what, const Json& value) {
  return BadField(place, fmt::format("{} must be {}, not {}.", place, what, Shown(value)), "invalid_type");
}

class MessageReader {
 public:
  explicit MessageReader(ReadContent& out) : out_(out) {}

  Status System(const Json& system) {
    TP_ASSIGN(Json content, TextContent(system, "system"));
    out_.messages.push_back({{"role", "system"}, {"content", std::move(content)}});
    return {};
  }

  Status Message(const Json& message, const std::string& place) {
    if (!message.is_object()) return Fail(WrongType(place, "an object", message));
    FieldReader reader(message, kMessageFields, place);
    TP_TRY(Check(reader));
    const auto role = reader.String("role");
    if (!role) return Fail(Missing(place + ".role"));
    const Json* content = reader.Find("content");
    if (content == nullptr) return Fail(Missing(place + ".content"));
    const std::string where = place + ".content";
    if (*role == "user") return User(*content, where);
    TP_TRY(AllAnswered(where));
    if (*role == "assistant") return Assistant(*content, where);
    if (*role == "system") {
      TP_ASSIGN(Json text, TextContent(*content, where));
      out_.messages.push_back({{"role", "system"}, {"content", std::move(text)}});
      return {};
    }
    return Fail(BadField(place + ".role", fmt::format("{}.role must be user or assistant, not {}.", place,
                                                      Shown(message["role"]))));
  }

  // After the last message.
  Status End() {
    if (!open_.empty()) {
      return Fail(
          BadField("messages",
                   fmt::format("the last message calls the tool with the id {}; its tool_result must follow.",
                               Shown(*open_.begin())),
                   "missing_tool_result"));
    }
    out_.continues = out_.messages.back()["role"] == "assistant";
    return {};
  }

 private:
  Status Check(FieldReader& reader) {
    TP_TRY(CheckFields(reader, out_.ignored));
    return CheckCacheControl(reader, out_.ignored);
  }

  Status AllAnswered(const std::string& where) {
    if (open_.empty()) return {};
    return Fail(
        BadField(where,
                 fmt::format("{}: the turn before calls the tool with the id {}; the next turn must be "
                             "the user's with its tool_result.",
                             where, Shown(*open_.begin())),
                 "missing_tool_result"));
  }

  // A string, or text blocks as the parts that the platform takes.
  Result<Json> TextContent(const Json& content, const std::string& where) {
    if (content.is_string()) return content;
    if (!content.is_array()) return Fail(WrongType(where, "a string or an array of blocks", content));
    Json parts = Json::array();
    for (size_t i = 0; i < content.size(); ++i) {
      TP_ASSIGN(Json part, TextPart(content[i], fmt::format("{}[{}]", where, i)));
      parts.push_back(std::move(part));
    }
    if (parts.empty()) return Json("");
    return parts;
  }

  Result<std::string> TypeOf(const Json& block, const std::string& place) {
    if (!block.is_object()) return Fail(WrongType(place, "an object with a type", block));
    const auto type = block.find("type");
    if (type == block.end()) return Fail(Missing(place + ".type"));
    if (!type->is_string()) return Fail(WrongType(place + ".type", "a string", *type));
    return type->get<std::string>();
  }

  Error Unsupported(const std::string& type, const std::string& place) {
    static constexpr std::string_view kMedia[] = {"image", "audio", "video", "container_upload"};
    const bool media = std::find(std::begin(kMedia), std::end(kMedia), type) != std::end(kMedia);
    return BadField(place + ".type",
                    media ? fmt::format("{}.type: \"{}\" is not supported; the models served here read text.",
                                        place, type)
                          : fmt::format("{}.type: \"{}\" is not possible here.", place, type.substr(0, 64)),
                    "unsupported_content");
  }

  Result<std::string> Text(FieldReader& reader, std::string_view name) {
    const auto text = reader.String(name);
    if (!text) return Fail(Missing(reader.Place(name)));
    return *text;
  }

  Result<Json> TextPart(const Json& block, const std::string& place) {
    TP_ASSIGN(const std::string type, TypeOf(block, place));
    if (type == "document") return Document(block, place);
    if (type != "text") return Fail(Unsupported(type, place));
    FieldReader reader(block, kTextFields, place);
    TP_TRY(Check(reader));
    TP_ASSIGN(std::string text, Text(reader, "text"));
    return Json{{"type", "text"}, {"text", std::move(text)}};
  }

  static Error NoText(const std::string& where) {
    return BadField(where + ".type",
                    fmt::format("{}: a document must be {{\"type\": \"text\", \"data\": ...}} or "
                                "{{\"type\": \"content\", \"content\": text}}; the models served here "
                                "read text.",
                                where),
                    "unsupported_content");
  }

  Result<Json> Document(const Json& block, const std::string& place) {
    FieldReader reader(block, kDocumentFields, place);
    TP_TRY(Check(reader));
    const Json* source = reader.Find("source");
    if (source == nullptr) return Fail(Missing(place + ".source"));
    const std::string where = place + ".source";
    TP_ASSIGN(const std::string type, TypeOf(*source, where));
    if (type != "text" && type != "content") return Fail(NoText(where));
    FieldReader within(*source, kSourceFields, where);
    TP_TRY(Check(within));
    std::string text;
    for (const char* name : {"title", "context"}) {
      if (auto given = reader.String(name)) text += *given + "\n";
    }
    const auto data = within.String("data");
    const Json* blocks = within.Find("content");
    if (type == "text" && data) {
      text += *data;
    } else if (type == "content" && blocks != nullptr) {
      TP_ASSIGN(const Json content, TextContent(*blocks, where + ".content"));
      text += Joined(content);
    } else {
      return Fail(NoText(where));
    }
    return Json{{"type", "text"}, {"text", std::move(text)}};
  }

  static std::string Joined(const Json& content) {
    if (content.is_string()) return content.get<std::string>();
    std::string out;
    for (const Json& part : content) {
      if (!out.empty()) out += '\n';
      out += part["text"].get_ref<const std::string&>();
    }
    return out;
  }

  // A call has one result, in the turn after it.
  Status Results(const Json& content, const std::string& where) {
    for (size_t i = 0; content.is_array() && i < content.size(); ++i) {
      const std::string place = fmt::format("{}[{}]", where, i);
      TP_ASSIGN(const std::string type, TypeOf(content[i], place));
      if (type != "tool_result") continue;
      FieldReader reader(content[i], kToolResultFields, place);
      TP_TRY(Check(reader));
      TP_ASSIGN(const std::string id, Text(reader, "tool_use_id"));
      if (open_.erase(id) == 0) {
        return Fail(
            BadField(place + ".tool_use_id",
                     fmt::format("{}.tool_use_id: the turn before has no tool_use with the id {} that "
                                 "still waits for its result.",
                                 place, Shown(Json(id))),
                     "unknown_tool_call"));
      }
      Json text("");
      if (const Json* given = reader.Find("content")) {
        TP_ASSIGN(text, TextContent(*given, place + ".content"));
      }
      if (reader.Boolean("is_error").value_or(false)) text = "Error: " + Joined(text);
      out_.messages.push_back({{"role", "tool"}, {"tool_call_id", id}, {"content", std::move(text)}});
    }
    return {};
  }

  Status User(const Json& content, const std::string& where) {
    TP_TRY(Results(content, where));
    TP_TRY(AllAnswered(where));
    Json parts = Json::array();
    if (content.is_string()) {
      parts.push_back(Json{{"type", "text"}, {"text", content}});
      return Say(std::move(parts));
    }
    if (!content.is_array()) return Fail(WrongType(where, "a string or an array of blocks", content));
    if (content.empty()) return Fail(BadField(where, fmt::format("{} is an empty array.", where)));
    for (size_t i = 0; i < content.size(); ++i) {
      if (content[i]["type"] == "tool_result") continue;
      TP_ASSIGN(Json part, TextPart(content[i], fmt::format("{}[{}]", where, i)));
      parts.push_back(std::move(part));
    }
    return parts.empty() ? Status{} : Say(std::move(parts));
  }

  // Turns of the user that follow each other are one.
  Status Say(Json parts) {
    const bool follows = !out_.messages.empty() && out_.messages.back()["role"] == "user";
    if (!follows) out_.messages.push_back({{"role", "user"}, {"content", Json::array()}});
    Json& content = out_.messages.back()["content"];
    for (Json& part : parts) content.push_back(std::move(part));
    return {};
  }

  Status Assistant(const Json& content, const std::string& where) {
    Json message = {{"role", "assistant"}, {"content", ""}};
    if (content.is_string()) {
      message["content"] = content;
      out_.messages.push_back(std::move(message));
      return {};
    }
    if (!content.is_array()) return Fail(WrongType(where, "a string or an array of blocks", content));
    std::string text, reasoning;
    Json calls = Json::array();
    for (size_t i = 0; i < content.size(); ++i) {
      const std::string place = fmt::format("{}[{}]", where, i);
      TP_ASSIGN(const std::string type, TypeOf(content[i], place));
      if (type == "tool_use") {
        TP_ASSIGN(Json call, ToolUse(content[i], place));
        calls.push_back(std::move(call));
      } else if (type == "thinking") {
        FieldReader reader(content[i], kThinkingFields, place);
        TP_TRY(Check(reader));
        TP_ASSIGN(const std::string thinking, Text(reader, "thinking"));
        reasoning += thinking;
      } else if (type == "redacted_thinking") {
        FieldReader reader(content[i], kRedactedFields, place);
        TP_TRY(Check(reader));
      } else if (type == "text") {
        TP_ASSIGN(const Json part, TextPart(content[i], place));
        text += part["text"].get_ref<const std::string&>();
      } else {
        return Fail(Unsupported(type, place));
      }
    }
    message["content"] = std::move(text);
    if (!reasoning.empty()) message["reasoning_content"] = std::move(reasoning);
    if (!calls.empty()) message["tool_calls"] = std::move(calls);
    out_.messages.push_back(std::move(message));
    return {};
  }

  Result<Json> ToolUse(const Json& block, const std::string& place) {
    FieldReader reader(block, kToolUseFields, place);
    TP_TRY(Check(reader));
    TP_ASSIGN(const std::string id, Text(reader, "id"));
    TP_ASSIGN(const std::string name, Text(reader, "name"));
    const Json* input = reader.Find("input");
    if (input == nullptr) return Fail(Missing(place + ".input"));
    if (!open_.insert(id).second) {
      return Fail(BadField(place + ".id", fmt::format("{}.id: two calls of this turn have the id {}.", place,
                                                      Shown(Json(id)))));
    }
    return Json{{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", *input}}}};
  }

  ReadContent& out_;
  std::set<std::string> open_;  // ids of calls without a result
};

constexpr std::string_view kTextExample =
    R"({"model":"m","max_tokens":1,"cache_control":{"type":"ephemeral"},
    "system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],
    "messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}]})";
constexpr std::string_view kDocumentExample =
    R"({"model":"m","max_tokens":1,"messages":[{"role":"user","content":[
    {"type":"document","source":{"type":"text","data":"x"}},
    {"type":"document","source":{"type":"content","content":[{"type":"text","text":"x"}]}}]}]})";
constexpr std::string_view kToolExample =
    R"({"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"},
    {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"redacted_thinking","data":"d"},
      {"type":"tool_use","id":"a","name":"f","input":{}}]},
    {"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"text","text":"y"}]}]}]})";

}  // namespace

Status CheckCacheControl(const FieldReader& reader, std::vector<std::string>& ignored) {
  const Json* control = reader.Lists("cache_control") ? reader.Find("cache_control") : nullptr;
  if (control == nullptr) return {};
  FieldReader inner(*control, kCacheControlFields, reader.Place("cache_control"));
  return CheckFields(inner, ignored);
}

Result<ReadContent> ReadMessages(const Json* system, const Json& messages) {
  if (messages.empty()) return Fail(BadField("messages", "messages is empty; send at least one message."));
  if (messages.size() > kMaxMessages) {
    return Fail(BadField(
        "messages", fmt::format("{} messages; at most {} are possible.", messages.size(), kMaxMessages)));
  }
  ReadContent out;
  MessageReader reader(out);
  if (system != nullptr) TP_TRY(reader.System(*system));
  for (size_t i = 0; i < messages.size(); ++i)
    TP_TRY(reader.Message(messages[i], fmt::format("messages[{}]", i)));
  TP_TRY(reader.End());
  return out;
}

std::vector<FieldTable> ContentTables() {
  return {
      {"cache_control", "", kTextExample, "/cache_control", kCacheControlFields},
      {"system[]", "type: text", kTextExample, "/system/0", kTextFields},
      {"system[].cache_control", "", kTextExample, "/system/0/cache_control", kCacheControlFields},
      {"messages[]", "", kTextExample, "/messages/0", kMessageFields},
      {"messages[].content[]", "type: text", kTextExample, "/messages/0/content/0", kTextFields},
      {"messages[].content[].cache_control", "", kTextExample, "/messages/0/content/0/cache_control",
       kCacheControlFields},
      {"messages[].content[]", "type: document", kDocumentExample, "/messages/0/content/0", kDocumentFields},
      {"messages[].content[].source", "type: text or content", kDocumentExample,
       "/messages/0/content/1/source", kSourceFields},
      {"messages[].content[].source.content[]", "type: text", kDocumentExample,
       "/messages/0/content/1/source/content/0", kTextFields},
      {"messages[].content[]", "type: tool_use", kToolExample, "/messages/1/content/2", kToolUseFields},
      {"messages[].content[]", "type: tool_result", kToolExample, "/messages/2/content/0", kToolResultFields},
      {"messages[].content[].content[]", "type: text", kToolExample, "/messages/2/content/0/content/0",
       kTextFields},
      {"messages[].content[]", "type: thinking", kToolExample, "/messages/1/content/0", kThinkingFields},
      {"messages[].content[]", "type: redacted_thinking", kToolExample, "/messages/1/content/1",
       kRedactedFields},
  };
}

}  // namespace tidepool::gateway::anthropic
