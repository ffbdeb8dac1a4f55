#include "gateway/openai/tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

namespace tidepool::gateway::openai {
namespace {

constexpr size_t kMaxTools = 512;
constexpr size_t kMaxToolName = 128;
// All schemas together; each is rendered into the prompt and some are compiled.
constexpr size_t kMaxToolsBytes = 1 << 20;

// OpenAI allows letters, digits, _ and -; tools of MCP servers also have these. None of them can close a tag.
bool IsToolName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxToolName && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':' || c == '/';
  });
}

const Json* Member(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Status CheckTool(const Json& tool, const std::string& place) {
  if (!tool.is_object()) {
    return Fail(
        BadField(place, fmt::format("{} must be an object, not {}.", place, Shown(tool)), "invalid_type"));
  }
  const Json* type = Member(tool, "type");
  if (type == nullptr || *type != "function") {
    return Fail(BadField(place + ".type",
                         fmt::format("{}.type must be \"function\"; other tools are not supported.", place),
                         "unsupported_parameter"));
  }
  const Json* function = Member(tool, "function");
  if (function == nullptr || !function->is_object()) {
    return Fail(
        BadField(place + ".function", fmt::format("{}.function must be an object.", place), "invalid_type"));
  }
  const Json* name = Member(*function, "name");
  if (name == nullptr || !name->is_string() || !IsToolName(name->get_ref<const std::string&>())) {
    return Fail(BadField(place + ".function.name",
                         fmt::format("{}.function.name must be 1 to {} letters, digits or any of _-.:/",
                                     place, kMaxToolName)));
  }
  const Json* parameters = Member(*function, "parameters");
  if (parameters != nullptr && !parameters->is_object()) {
    return Fail(BadField(
        place + ".function.parameters",
        fmt::format("{}.function.parameters must be a JSON schema, not {}.", place, Shown(*parameters)),
        "invalid_type"));
  }
  const Json* strict = Member(*function, "strict");
  if (strict != nullptr && !strict->is_boolean()) {
    return Fail(BadField(place + ".function.strict",
                         fmt::format("{}.function.strict must be true or false.", place), "invalid_type"));
  }
  return {};
}

Status ReadChoice(const Json& choice, platform::ChatRequest& request) {
  using platform::ToolChoice;
  const bool any = !request.tools.empty();
  if (choice == "none") {
    request.tool_choice = ToolChoice::kNone;
    return {};
  }
  if (choice == "auto") return {};
  if (choice.is_string() && choice != "required") {
    return Fail(BadField(
        "tool_choice",
        fmt::format("tool_choice must be none, auto, required or a function, not {}.", Shown(choice))));
  }
  if (!any) {
    return Fail(
        BadField("tool_choice", "tool_choice asks for a call, but there are no tools; send tools too."));
  }
  if (choice == "required") {
    request.tool_choice = ToolChoice::kRequired;
    return {};
  }
  const Json* function = choice.is_object() ? Member(choice, "function") : nullptr;
  const Json* name = function != nullptr && function->is_object() ? Member(*function, "name") : nullptr;
  if (name == nullptr || !name->is_string() || choice.value("type", Json()) != "function") {
    return Fail(BadField("tool_choice",
                         "tool_choice must be none, auto, required or {\"type\": \"function\", \"function\": "
                         "{\"name\": ...}}."));
  }
  request.tool_choice = ToolChoice::kNamed;
  request.tool_name = name->get<std::string>();
  const bool known = std::any_of(request.tools.begin(), request.tools.end(), [&](const Json& tool) {
    return tool["function"]["name"] == request.tool_name;
  });
  if (known) return {};
  return Fail(BadField("tool_choice.function.name",
                       fmt::format("tool_choice names \"{}\", which is none of the tools.",
                                   request.tool_name.substr(0, kMaxToolName))));
}

}  // namespace

Status ReadTools(const FieldReader& reader, platform::ChatRequest& request) {
  if (const Json* tools = reader.Find("tools")) {
    if (tools->size() > kMaxTools) {
      return Fail(
          BadField("tools", fmt::format("{} tools; at most {} are possible.", tools->size(), kMaxTools)));
    }
    std::unordered_set<std::string> names;
    size_t bytes = 0;
    for (size_t i = 0; i < tools->size(); ++i) {
      const std::string place = fmt::format("tools[{}]", i);
      const Json& tool = (*tools)[i];
      TP_TRY(CheckTool(tool, place));
      if (!names.insert(tool["function"]["name"].get<std::string>()).second) {
        return Fail(
            BadField(place + ".function.name", fmt::format("{}.function.name: two tools have the name {}.",
                                                           place, Shown(tool["function"]["name"]))));
      }
      bytes += tool.dump(-1, ' ', false, Json::error_handler_t::replace).size();
      if (bytes > kMaxToolsBytes) {
        return Fail(BadField(
            "tools", fmt::format("the tools are more than {} bytes of JSON; send fewer or shorter ones.",
                                 kMaxToolsBytes)));
      }
    }
    request.tools = *tools;
  }
  if (const Json* choice = reader.Find("tool_choice")) TP_TRY(ReadChoice(*choice, request));
  request.parallel_tool_calls = reader.Boolean("parallel_tool_calls").value_or(true);
  request.tool_call_format = reader.String("tool_call_format").value_or("");
  return {};
}

}  // namespace tidepool::gateway::openai
