#include "gateway/openai/messages.h"

#include <fmt/format.h>

#include <functional>
#include <set>
#include <string>

namespace tidepool::gateway::openai {
namespace {

constexpr size_t kMaxMessages = 16384;
constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool", "function"};

std::string_view StringOf(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? std::string_view(found->get_ref<const std::string&>())
                                                     : std::string_view();
}

bool IsGiven(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

Status CheckPart(const Json& part, const std::string& place) {
  if (!part.is_object()) {
    return Fail(BadField(place, fmt::format("{} must be an object with a type, not {}.", place, Shown(part)),
                         "invalid_type"));
  }
  const std::string_view type = StringOf(part, "type");
  if (type == "text" || type == "refusal") {
    const auto text = part.find(type);
    if (text == part.end() || !text->is_string()) {
      return Fail(BadField(fmt::format("{}.{}", place, type),
                           fmt::format("{}.{} must be a string.", place, type), "invalid_type"));
    }
    return {};
  }
  if (type == "image_url" || type == "input_audio" || type == "file" || type == "video_url") {
    return Fail(BadField(
        place + ".type",
        fmt::format("{}.type: \"{}\" is not supported; the models served here read text.", place, type),
        "unsupported_content"));
  }
  return Fail(BadField(place + ".type", fmt::format("{}.type must be \"text\".", place)));
}

Status CheckContent(const Json& message, std::string_view role, const std::string& place) {
  const std::string where = place + ".content";
  if (!IsGiven(message, "content")) {
    const bool may_lack =
        role == "assistant" && (IsGiven(message, "tool_calls") || IsGiven(message, "function_call") ||
                                IsGiven(message, "refusal") || IsGiven(message, "reasoning_content"));
    if (may_lack) return {};
    return Fail(BadField(where, fmt::format("{} is missing.", where), "missing_field"));
  }
  const Json& content = message["content"];
  if (content.is_string()) return {};
  if (!content.is_array()) {
    return Fail(BadField(
        where, fmt::format("{} must be a string or an array of parts, not {}.", where, Shown(content)),
        "invalid_type"));
  }
  if (content.empty()) return Fail(BadField(where, fmt::format("{} is an empty array.", where)));
  for (size_t i = 0; i < content.size(); ++i) TP_TRY(CheckPart(content[i], fmt::format("{}[{}]", where, i)));
  return {};
}

Status CheckToolCalls(const Json& message, const std::string& place) {
  if (!IsGiven(message, "tool_calls")) return {};
  const Json& calls = message["tool_calls"];
  if (!calls.is_array()) {
    return Fail(BadField(place + ".tool_calls", fmt::format("{}.tool_calls must be an array.", place),
                         "invalid_type"));
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string where = fmt::format("{}.tool_calls[{}]", place, i);
    const Json& call = calls[i];
    const bool good =
        call.is_object() && call.contains("function") && call["function"].is_object() &&
        !StringOf(call["function"], "name").empty() && call["function"].contains("arguments") &&
        (call["function"]["arguments"].is_string() || call["function"]["arguments"].is_object());
    if (!good) {
      return Fail(BadField(
          where, fmt::format("{} must be {{\"id\", \"type\": \"function\", \"function\": {{\"name\", "
                             "\"arguments\"}}}}.",
                             where)));
    }
  }
  return {};
}

// A result belongs to a call of the assistant's last turn, and each call has one result.
Status CheckResult(const Json& message, const std::string& place, std::set<std::string, std::less<>>& open) {
  const std::string_view id = StringOf(message, "tool_call_id");
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

Result<Json> ReadMessages(const Json& messages) {
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
    Json& message = out[i];
    const std::string place = fmt::format("messages[{}]", i);
    if (!message.is_object()) {
      return Fail(BadField(place, fmt::format("{} must be an object, not {}.", place, Shown(message)),
                           "invalid_type"));
    }
    const std::string role(StringOf(message, "role"));
    bool known = false;
    for (const std::string_view candidate : kRoles) known = known || role == candidate;
    if (!known) {
      return Fail(
          BadField(place + ".role",
                   fmt::format("{}.role must be system, developer, user, assistant or tool.", place)));
    }
    TP_TRY(CheckContent(message, role, place));
    TP_TRY(CheckToolCalls(message, place));
    if (role == "tool") {
      TP_TRY(CheckResult(message, place, open));
    } else {
      open.clear();
      if (role == "assistant" && IsGiven(message, "tool_calls")) {
        for (const Json& call : message["tool_calls"]) open.emplace(StringOf(call, "id"));
      }
    }
    if (IsGiven(message, "name") && !message["name"].is_string()) {
      return Fail(BadField(place + ".name", fmt::format("{}.name must be a string.", place), "invalid_type"));
    }
    if (role == "developer") message["role"] = "system";
  }
  return out;
}

}  // namespace tidepool::gateway::openai
