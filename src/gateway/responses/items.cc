#include "gateway/responses/items.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/ids.h"

namespace tidepool::gateway::responses {
namespace {

using enum FieldType;
using enum Treatment;

constexpr size_t kMaxItems = 16384;

constexpr Field kMessageFields[] = {
    {"type", kString, kRead, "message (may be left out)"},
    {"role", kString, kRead, "user, assistant, system or developer"},
    {"content", kAny, kRead, "A string, or parts: input_text, output_text, refusal"},
    {"id", kString, kRead, "Kept"},
    {"status", kString, kRead, "Kept; default: completed"},
    {"phase", kAny, kIgnored, ""},
};
constexpr Field kPartFields[] = {
    {"type", kString, kRead, "input_text, output_text or refusal; images, audio and files are refused"},
    {"text", kString, kRead, "The text"},
    {"refusal", kString, kRead, "The text of a refusal"},
    {"annotations", kAny, kAccepted, "Answers have none"},
    {"logprobs", kAny, kAccepted, "What an answer has, sent back"},
};
constexpr Field kCallFields[] = {
    {"type", kString, kRead, "function_call"},
    {"call_id", kString, kRead, "What the output names"},
    {"name", kString, kRead, "The function's name"},
    {"arguments", kString, kRead, "JSON text"},
    {"id", kString, kRead, "Kept"},
    {"status", kString, kRead, "Kept; a call that is incomplete is not shown to the model"},
};
constexpr Field kOutputFields[] = {
    {"type", kString, kRead, "function_call_output"},
    {"call_id", kString, kRead, "The id of a call before it"},
    {"output", kAny, kRead, "A string, or input_text parts"},
    {"id", kString, kRead, "Kept"},
    {"status", kString, kAccepted, "Kept"},
};
constexpr Field kReasoningFields[] = {
    {"type", kString, kRead, "reasoning"},
    {"id", kString, kRead, "Kept"},
    {"summary", kArray, kRead, "summary_text parts"},
    {"content", kArray, kRead, "reasoning_text parts; goes first, if both are there"},
    {"encrypted_content", kString, kAccepted, "Reasoning is in content or summary here"},
    {"status", kString, kAccepted, "Kept"},
};

constexpr Field kReasoningPartFields[] = {
    {"type", kString, kAccepted, "reasoning_text or summary_text"},
    {"text", kString, kRead, "The text"},
};

Error Missing(const std::string& place) {
  return BadField(place, fmt::format("{} is missing.", place), "missing_field");
}

Error WrongType(const std::string& place, std::string_view what, const Json& value) {
  return BadField(place, fmt::format("{} must be {}, not {}.", place, what, Shown(value)), "invalid_type");
}

std::string TextOf(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

class InputReader {
 public:
  explicit InputReader(std::vector<std::string>& ignored) : ignored_(ignored) {}

  Result<Json> Item(const Json& item, const std::string& place) {
    if (!item.is_object()) return Fail(WrongType(place, "an object", item));
    const auto type = item.find("type");
    if (type != item.end() && !type->is_string() && !type->is_null())
      return Fail(WrongType(place + ".type", "a string", *type));
    const std::string kind = type == item.end() || type->is_null() ? "message" : type->get<std::string>();
    Json out = item;
    out["type"] = kind;
    if (kind == "message") {
      TP_TRY(Message(item, out, place));
    } else if (kind == "function_call") {
      TP_TRY(Call(item, out, place));
    } else if (kind == "function_call_output") {
      TP_TRY(Output(item, out, place));
    } else if (kind == "reasoning") {
      TP_TRY(Reasoning(item, out, place));
    } else {
      return Fail(
          BadField(place + ".type",
                   fmt::format("{}.type: \"{}\" is not possible here; there are message, function_call, "
                               "function_call_output and reasoning.",
                               place, kind.substr(0, 64)),
                   "unsupported_content"));
    }
    return out;
  }

 private:
  Status Check(FieldReader& reader) { return CheckFields(reader, ignored_); }

  static void Identify(const FieldReader& reader, Json& item, std::string_view prefix) {
    if (reader.String("id").value_or("").empty()) item["id"] = RandomId(prefix, 24);
  }

  Status Message(const Json& given, Json& item, const std::string& place) {
    FieldReader reader(given, kMessageFields, place);
    TP_TRY(Check(reader));
    static constexpr std::string_view kRoles[] = {"user", "assistant", "system", "developer"};
    const std::string role = reader.String("role").value_or("");
    if (std::find(std::begin(kRoles), std::end(kRoles), role) == std::end(kRoles)) {
      return Fail(BadField(place + ".role",
                           fmt::format("{}.role must be user, assistant, system or developer.", place)));
    }
    const Json* content = reader.Find("content");
    if (content == nullptr) return Fail(Missing(place + ".content"));
    TP_ASSIGN(Json parts, Parts(*content, place + ".content", role == "assistant"));
    item["content"] = std::move(parts);
    Identify(reader, item, "msg_");
    if (!reader.Has("status")) item["status"] = "completed";
    return {};
  }

  Result<Json> Parts(const Json& content, const std::string& place, bool output) {
    Json parts = Json::array();
    if (content.is_string()) {
      Json part;
      part["type"] = output ? "output_text" : "input_text";
      part["text"] = content;
      if (output) part["annotations"] = Json::array();
      parts.push_back(std::move(part));
      return parts;
    }
    if (!content.is_array()) return Fail(WrongType(place, "a string or an array of parts", content));
    for (size_t i = 0; i < content.size(); ++i) {
      const std::string where = fmt::format("{}[{}]", place, i);
      if (!content[i].is_object()) return Fail(WrongType(where, "an object with a type", content[i]));
      const auto type = content[i].find("type");
      if (type == content[i].end()) return Fail(Missing(where + ".type"));
      if (!type->is_string()) return Fail(WrongType(where + ".type", "a string", *type));
      const auto& kind = type->get_ref<const std::string&>();
      if (kind == "input_image" || kind == "input_audio" || kind == "input_file") {
        return Fail(BadField(
            where + ".type",
            fmt::format("{}.type: \"{}\" is not supported; the models served here read text.", where, kind),
            "unsupported_content"));
      }
      if (kind != "input_text" && kind != "output_text" && kind != "refusal" && kind != "text") {
        return Fail(BadField(where + ".type",
                             fmt::format("{}.type must be input_text or output_text.", where),
                             "unsupported_content"));
      }
      FieldReader reader(content[i], kPartFields, where);
      TP_TRY(Check(reader));
      const bool given = kind == "refusal" ? reader.Has("refusal") : reader.Has("text");
      if (!given) return Fail(Missing(where + (kind == "refusal" ? ".refusal" : ".text")));
      parts.push_back(content[i]);
    }
    return parts;
  }

  Status Call(const Json& given, Json& item, const std::string& place) {
    FieldReader reader(given, kCallFields, place);
    TP_TRY(Check(reader));
    for (const char* name : {"call_id", "name", "arguments"}) {
      if (!reader.Has(name)) return Fail(Missing(fmt::format("{}.{}", place, name)));
    }
    if (!reader.Has("status")) item.erase("status");  // a null; TurnWriter reads it
    Identify(reader, item, "fc_");
    return {};
  }

  Status Output(const Json& given, Json& item, const std::string& place) {
    FieldReader reader(given, kOutputFields, place);
    TP_TRY(Check(reader));
    if (!reader.Has("call_id")) return Fail(Missing(place + ".call_id"));
    const Json* output = reader.Find("output");
    if (output == nullptr) return Fail(Missing(place + ".output"));
    if (!output->is_string()) {
      TP_ASSIGN(Json parts, Parts(*output, place + ".output", false));
      item["output"] = std::move(parts);
    }
    Identify(reader, item, "fco_");
    return {};
  }

  Status Reasoning(const Json& given, Json& item, const std::string& place) {
    FieldReader reader(given, kReasoningFields, place);
    TP_TRY(Check(reader));
    for (const char* name : {"summary", "content"}) {
      const Json* parts = reader.Find(name);
      for (size_t i = 0; parts != nullptr && i < parts->size(); ++i) {
        const std::string where = fmt::format("{}.{}[{}]", place, name, i);
        if (!(*parts)[i].is_object()) return Fail(WrongType(where, "an object with a text", (*parts)[i]));
        FieldReader part((*parts)[i], kReasoningPartFields, where);
        TP_TRY(Check(part));
        if (!part.Has("text")) return Fail(WrongType(where, "an object with a text", (*parts)[i]));
      }
    }
    Identify(reader, item, "rs_");
    return {};
  }

  std::vector<std::string>& ignored_;
};

std::string Joined(const Json& parts) {
  std::string out;
  for (const Json& part : parts) {
    const std::string text = TextOf(part, part.contains("refusal") ? "refusal" : "text");
    if (!out.empty() && !text.empty()) out += '\n';
    out += text;
  }
  return out;
}

// Items become turns: what the assistant thinks, says and calls without anything in between is one.
class TurnWriter {
 public:
  Status Take(const Json& item, const std::string& place) {
    const std::string type = TextOf(item, "type");
    if (type == "function_call_output") return Output(item, place);
    if (type == "function_call") {
      if (TextOf(item, "status") == "incomplete") return {};
      return Call(item, place);
    }
    if (type == "reasoning") {
      const auto content = item.find("content");
      const bool whole = content != item.end() && content->is_array() && !content->empty();
      TP_TRY(Begin(place));
      reasoning_ += Joined(whole ? *content : item.value("summary", Json::array()));
      return {};
    }
    const std::string role = TextOf(item, "role");
    const std::string text = Joined(item.at("content"));
    if (role == "assistant") {
      TP_TRY(Begin(place));
      text_ += text;
      return {};
    }
    TP_TRY(Answered(place));
    Flush();
    out.push_back(Json{{"role", role == "user" ? "user" : "system"}, {"content", text}});
    return {};
  }

  Status End(const std::string& place) {
    Flush();
    return Answered(place);
  }

  Json out = Json::array();

 private:
  // The assistant says something: all its earlier calls were answered.
  Status Begin(const std::string& place) {
    if (speaking_) return {};
    TP_TRY(Answered(place));
    speaking_ = true;
    return {};
  }

  Status Call(const Json& item, const std::string& place) {
    TP_TRY(Begin(place));
    const std::string id = TextOf(item, "call_id");
    if (!open_.insert(id).second) {
      return Fail(BadField(
          place + ".call_id",
          fmt::format("{}.call_id: two calls of this turn have the id {}.", place, Shown(Json(id)))));
    }
    Json function;
    function["name"] = TextOf(item, "name");
    function["arguments"] = TextOf(item, "arguments");
    calls_.push_back(Json{{"id", id}, {"type", "function"}, {"function", std::move(function)}});
    return {};
  }

  Status Output(const Json& item, const std::string& place) {
    Flush();
    const std::string id = TextOf(item, "call_id");
    if (open_.erase(id) == 0) {
      return Fail(
          BadField(place + ".call_id",
                   fmt::format("{}.call_id: no function_call before it has the call_id {} and still waits "
                               "for its output.",
                               place, Shown(Json(id))),
                   "unknown_tool_call"));
    }
    const Json& output = item.at("output");
    out.push_back(Json{{"role", "tool"},
                       {"tool_call_id", id},
                       {"content", output.is_string() ? output.get<std::string>() : Joined(output)}});
    return {};
  }

  Status Answered(const std::string& place) {
    if (open_.empty()) return {};
    return Fail(BadField(place,
                         fmt::format("{}: the call with the call_id {} has no function_call_output; send it.",
                                     place, Shown(Json(*open_.begin()))),
                         "missing_tool_result"));
  }

  void Flush() {
    if (!speaking_) return;
    speaking_ = false;
    Json message = {{"role", "assistant"}, {"content", std::exchange(text_, {})}};
    if (!reasoning_.empty()) message["reasoning_content"] = std::exchange(reasoning_, {});
    if (!calls_.empty()) message["tool_calls"] = std::exchange(calls_, Json::array());
    // Reasoning alone, of an answer that was cut off in it, says nothing.
    if (message["content"] != "" || message.contains("tool_calls")) out.push_back(std::move(message));
  }

  std::set<std::string> open_;  // call_ids without an output
  bool speaking_ = false;
  std::string text_, reasoning_;
  Json calls_ = Json::array();
};

constexpr std::string_view kPartExample =
    R"({"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"x"}]},
    {"role":"assistant","content":[{"type":"refusal","refusal":"no"}]}]})";
constexpr std::string_view kItemsExample =
    R"({"model":"m","input":[{"type":"message","role":"user","content":"x"},
    {"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"h"}],"content":[{"type":"reasoning_text","text":"hm"}]},
    {"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c",
    "output":[{"type":"input_text","text":"y"}]}]})";

}  // namespace

Result<Json> ReadInput(const Json& input, std::vector<std::string>& ignored) {
  InputReader reader(ignored);
  Json items = Json::array();
  if (input.is_string()) {
    TP_ASSIGN(Json item, reader.Item(Json{{"role", "user"}, {"content", input}}, "input"));
    items.push_back(std::move(item));
    return items;
  }
  if (!input.is_array()) return Fail(WrongType("input", "a string or an array of items", input));
  if (input.size() > kMaxItems) {
    return Fail(
        BadField("input", fmt::format("{} items; at most {} are possible.", input.size(), kMaxItems)));
  }
  for (size_t i = 0; i < input.size(); ++i) {
    TP_ASSIGN(Json item, reader.Item(input[i], fmt::format("input[{}]", i)));
    items.push_back(std::move(item));
  }
  return items;
}

Result<Json> MessagesOf(const Json& items, size_t own) {
  TurnWriter writer;
  for (size_t i = 0; i < items.size(); ++i) {
    TP_TRY(writer.Take(items[i], i < own ? "previous_response_id" : fmt::format("input[{}]", i - own)));
  }
  TP_TRY(writer.End("input"));
  if (writer.out.empty()) return Fail(BadField("input", "input is empty; send at least one message."));
  return std::move(writer.out);
}

std::vector<FieldTable> ItemTables() {
  return {
      {"input[]", "type: message", kPartExample, "/input/0", kMessageFields},
      {"input[].content[]", "type: input_text, output_text or refusal", kPartExample, "/input/0/content/0",
       kPartFields},
      {"input[]", "type: function_call", kItemsExample, "/input/2", kCallFields},
      {"input[]", "type: function_call_output", kItemsExample, "/input/3", kOutputFields},
      {"input[].output[]", "type: input_text", kItemsExample, "/input/3/output/0", kPartFields},
      {"input[]", "type: reasoning", kItemsExample, "/input/1", kReasoningFields},
      {"input[].summary[]", "of reasoning", kItemsExample, "/input/1/summary/0", kReasoningPartFields},
      {"input[].content[]", "of reasoning", kItemsExample, "/input/1/content/0", kReasoningPartFields},
  };
}

}  // namespace tidepool::gateway::responses
