#include "gateway/openai/tools.h"

#include <fmt/format.h>

#include "gateway/tool_list.h"

namespace tidepool::gateway::openai {
namespace {

using enum FieldType;
using enum Treatment;

constexpr Field kToolFields[] = {
    {"type", kString, kRead, "function; other tools are refused"},
    {"function", kObject, kRead, "The function"},
};
constexpr Field kFunctionFields[] = {
    {"name", kString, kRead, "1 to 128 letters, digits or any of _-.:/"},
    {"description", kString, kRead, "What it is for"},
    {"parameters", kObject, kRead, "JSON schema of its arguments"},
    {"strict", kBoolean, kRead, "Arguments are always of the schema"},
    {"return", kAny, kRead, "What it gives back, as transformers writes it; shown to the model"},
};
constexpr Field kChoiceFields[] = {
    {"type", kString, kRead, "function"},
    {"function", kObject, kRead, "The one to call"},
    {"allowed_tools", kAny, kRefused, "send only the tools that may be called"},
    {"custom", kAny, kRefused, "only functions can be called"},
};
constexpr Field kChosenFields[] = {
    {"name", kString, kRead, "Its name"},
};

// The tool as templates show it: with what is listed, in this order whatever the client's.
Result<Json> ReadTool(const Json& tool, const std::string& place, std::vector<std::string>& ignored) {
  if (!tool.is_object()) {
    return Fail(
        BadField(place, fmt::format("{} must be an object, not {}.", place, Shown(tool)), "invalid_type"));
  }
  FieldReader reader(tool, kToolFields, place);
  TP_TRY(CheckFields(reader, ignored));
  if (reader.String("type") != "function") {
    return Fail(BadField(place + ".type",
                         fmt::format("{}.type must be \"function\"; other tools are not supported.", place),
                         "unsupported_parameter"));
  }
  const Json* given = reader.Find("function");
  if (given == nullptr) {
    return Fail(
        BadField(place + ".function", fmt::format("{}.function must be an object.", place), "invalid_type"));
  }
  FieldReader function(*given, kFunctionFields, place + ".function");
  TP_TRY(CheckFields(function, ignored));
  Json out = Json::object();
  for (const Field& field : kFunctionFields) {
    if (const Json* value = function.Find(field.name)) out[std::string(field.name)] = *value;
  }
  return Json{{"type", "function"}, {"function", std::move(out)}};
}

Status ReadChoice(const Json& choice, const ToolList& list, platform::ChatRequest& request,
                  std::vector<std::string>& ignored) {
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
  const auto wrong = [] {
    return Fail(BadField("tool_choice",
                         "tool_choice must be none, auto, required or {\"type\": \"function\", \"function\": "
                         "{\"name\": ...}}."));
  };
  if (!choice.is_object()) return wrong();
  FieldReader reader(choice, kChoiceFields, "tool_choice");
  TP_TRY(CheckFields(reader, ignored));
  const Json* function = reader.Find("function");
  if (reader.String("type") != "function" || function == nullptr) return wrong();
  FieldReader chosen(*function, kChosenFields, "tool_choice.function");
  TP_TRY(CheckFields(chosen, ignored));
  const auto name = chosen.String("name");
  if (!name) return wrong();
  request.tool_choice = ToolChoice::kNamed;
  request.tool_name = *name;
  if (list.Has(request.tool_name)) return {};
  return Fail(BadField("tool_choice.function.name",
                       fmt::format("tool_choice names \"{}\", which is none of the tools.",
                                   request.tool_name.substr(0, kMaxToolName))));
}

}  // namespace

Status ReadTools(const FieldReader& reader, platform::ChatRequest& request,
                 std::vector<std::string>& ignored) {
  ToolList list(request);
  if (const Json* tools = reader.Find("tools")) {
    for (size_t i = 0; i < tools->size(); ++i) {
      const std::string place = fmt::format("tools[{}]", i);
      TP_ASSIGN(Json tool, ReadTool((*tools)[i], place, ignored));
      const std::string function = place + ".function";
      TP_TRY(list.Add(std::move(tool), {function + ".name", function + ".parameters", function + ".strict"}));
    }
  }
  if (const Json* choice = reader.Find("tool_choice")) TP_TRY(ReadChoice(*choice, list, request, ignored));
  request.parallel_tool_calls = reader.Boolean("parallel_tool_calls").value_or(true);
  request.tool_call_format = reader.String("tool_call_format").value_or("");
  return {};
}

std::vector<FieldTable> ToolTables(std::string_view prefix, std::string_view example) {
  const std::string place = prefix.empty() ? std::string() : fmt::format("{}.", prefix);
  const std::string pointer = prefix.empty() ? std::string() : fmt::format("/{}", prefix);
  return {
      {place + "tools[]", "", example, pointer + "/tools/0", kToolFields},
      {place + "tools[].function", "", example, pointer + "/tools/0/function", kFunctionFields},
      {place + "tool_choice", "", example, pointer + "/tool_choice", kChoiceFields},
      {place + "tool_choice.function", "", example, pointer + "/tool_choice/function", kChosenFields},
  };
}

}  // namespace tidepool::gateway::openai
