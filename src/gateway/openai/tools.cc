#include "gateway/openai/tools.h"

#include <fmt/format.h>

#include "gateway/tool_list.h"

namespace tidepool::gateway::openai {
namespace {

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
  return {};
}

Status ReadChoice(const Json& choice, const ToolList& list, platform::ChatRequest& request) {
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
  if (list.Has(request.tool_name)) return {};
  return Fail(BadField("tool_choice.function.name",
                       fmt::format("tool_choice names \"{}\", which is none of the tools.",
                                   request.tool_name.substr(0, kMaxToolName))));
}

}  // namespace

Status ReadTools(const FieldReader& reader, platform::ChatRequest& request) {
  ToolList list(request);
  if (const Json* tools = reader.Find("tools")) {
    for (size_t i = 0; i < tools->size(); ++i) {
      const std::string place = fmt::format("tools[{}]", i);
      TP_TRY(CheckTool((*tools)[i], place));
      const std::string function = place + ".function";
      TP_TRY(list.Add((*tools)[i], {function + ".name", function + ".parameters", function + ".strict"}));
    }
  }
  if (const Json* choice = reader.Find("tool_choice")) TP_TRY(ReadChoice(*choice, list, request));
  request.parallel_tool_calls = reader.Boolean("parallel_tool_calls").value_or(true);
  request.tool_call_format = reader.String("tool_call_format").value_or("");
  return {};
}

}  // namespace tidepool::gateway::openai
