#include "platform/inference/tool_messages.h"

#include <algorithm>
#include <cstdint>

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

// Qwen2.5's words: the models that templates without tools belong to have seen them most.
constexpr std::string_view kToolsBefore =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
    "function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsAfter =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
    "<args-json-object>}\n</tool_call>";

std::string Dumped(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

// Nine letters and digits that stand for an id (FNV-1a).
std::string ShortId(std::string_view id) {
  static constexpr std::string_view kDigits =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  };
  if (id.size() == 9 && std::all_of(id.begin(), id.end(), plain)) return std::string(id);
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : id) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  std::string out;
  for (int i = 0; i < 9; ++i, hash /= kDigits.size()) out += kDigits[hash % kDigits.size()];
  return out;
}

bool HasCalls(const Json& message) {
  const auto calls = message.find("tool_calls");
  return calls != message.end() && calls->is_array() && !calls->empty();
}

// The text of a message: a string, or parts of text joined; "" for anything else.
std::string TextOf(const Json& message) {
  const auto content = message.find("content");
  if (content == message.end()) return {};
  if (content->is_string()) return content->get<std::string>();
  std::string out;
  if (!content->is_array()) return out;
  for (const Json& part : *content) {
    if (!part.is_object() || !part.contains("text") || !part["text"].is_string()) continue;
    if (!out.empty()) out += '\n';
    out += part["text"].get_ref<const std::string&>();
  }
  return out;
}

void FitArguments(Json& call, bool text) {
  if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) return;
  Json& function = call["function"];
  const auto arguments = function.find("arguments");
  if (arguments == function.end()) return;
  if (text && !arguments->is_string()) {
    *arguments = Dumped(*arguments);
  } else if (!text && arguments->is_string()) {
    Json parsed = Json::parse(arguments->get_ref<const std::string&>(), nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object()) *arguments = std::move(parsed);
  }
}

void FitCalls(const ModelAssets& assets, Json& message) {
  const bool mistral = assets.tool_calls == toolcalls::Format::kMistral;
  if (HasCalls(message)) {
    for (Json& call : message["tool_calls"]) {
      FitArguments(call, assets.capabilities.text_arguments);
      if (mistral && call.is_object() && call.contains("id") && call["id"].is_string()) {
        call["id"] = ShortId(call["id"].get_ref<const std::string&>());
      }
    }
  }
  const auto id = message.find("tool_call_id");
  if (mistral && id != message.end() && id->is_string()) *id = ShortId(id->get_ref<const std::string&>());
}

// Calls as the text that kToolsAfter asks for.
void WriteCalls(Json& message) {
  std::string text = TextOf(message);
  for (Json& call : message["tool_calls"]) {
    FitArguments(call, /*text=*/false);
    if (!call.is_object() || !call.contains("function")) continue;
    const Json& function = call["function"];
    if (!text.empty()) text += '\n';
    Json written;
    written["name"] = function.value("name", Json());
    written["arguments"] = function.value("arguments", Json::object());
    text += "<tool_call>\n" + Dumped(written) + "\n</tool_call>";
  }
  message["content"] = std::move(text);
  message.erase("tool_calls");
}

// Results that follow each other share one user message, as Qwen's templates have it.
Json WithoutToolRoles(Json messages) {
  Json out = Json::array();
  bool after_result = false;
  for (Json& message : messages) {
    if (!message.is_object()) {
      out.push_back(std::move(message));
      continue;
    }
    if (HasCalls(message)) WriteCalls(message);
    const bool result = message.contains("role") && message["role"] == "tool";
    if (!result) {
      out.push_back(std::move(message));
      after_result = false;
      continue;
    }
    const std::string text = "<tool_response>\n" + TextOf(message) + "\n</tool_response>";
    if (after_result) {
      out.back()["content"] = out.back()["content"].get<std::string>() + "\n" + text;
    } else {
      out.push_back({{"role", "user"}, {"content", text}});
    }
    after_result = true;
  }
  return out;
}

void PutBehind(Json& message, const std::string& text) {
  const std::string own = TextOf(message);
  message["content"] = own.empty() ? text : own + "\n\n" + text;
}

void WriteTools(const ModelAssets& assets, const Json& tools, Json& messages) {
  std::string text(kToolsBefore);
  for (const Json& tool : tools) text += "\n" + Dumped(tool);
  text += kToolsAfter;
  if (messages.empty() || !messages.front().is_object()) return;
  const Json role = messages.front().value("role", Json());
  if (role == "system" || role == "developer") return PutBehind(messages.front(), text);
  if (assets.capabilities.system_role) {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", text}});
    return;
  }
  for (Json& message : messages) {
    if (!message.is_object() || message.value("role", Json()) != "user") continue;
    message["content"] = text + "\n\n" + TextOf(message);
    return;
  }
}

}  // namespace

Json FitToolMessages(const ModelAssets& assets, Json messages, const Json& tools) {
  if (!messages.is_array()) return messages;
  for (Json& message : messages) {
    if (message.is_object()) FitCalls(assets, message);
  }
  if (!assets.capabilities.tool_calls) messages = WithoutToolRoles(std::move(messages));
  if (!tools.empty() && !assets.capabilities.tools) WriteTools(assets, tools, messages);
  return messages;
}

}  // namespace tidepool::platform
