#include "gateway/tool_list.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::gateway {
namespace {

// All schemas together; each is rendered into the prompt and some are compiled.
constexpr size_t kMaxToolsBytes = 1 << 20;

// OpenAI allows letters, digits, _ and -; tools of MCP servers also have these. None of them can close a tag.
bool IsToolName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxToolName && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':' || c == '/';
  });
}

}  // namespace

Status ToolList::Add(Json tool, const ToolPlaces& places) {
  if (request_.tools.size() >= kMaxTools)
    return Fail(BadField("tools", fmt::format("More than {} tools; send fewer.", kMaxTools)));
  const Json& function = tool["function"];
  const auto find = [&](std::string_view key) -> const Json* {
    const auto found = function.find(key);
    return found == function.end() || found->is_null() ? nullptr : &*found;
  };
  const Json* name = find("name");
  if (name == nullptr || !name->is_string() || !IsToolName(name->get_ref<const std::string&>())) {
    return Fail(BadField(places.name, fmt::format("{} must be 1 to {} letters, digits or any of _-.:/",
                                                  places.name, kMaxToolName)));
  }
  const Json* parameters = find("parameters");
  if (parameters != nullptr && !parameters->is_object()) {
    return Fail(
        BadField(places.parameters,
                 fmt::format("{} must be a JSON schema, not {}.", places.parameters, Shown(*parameters)),
                 "invalid_type"));
  }
  const Json* strict = find("strict");
  if (strict != nullptr && !strict->is_boolean()) {
    return Fail(
        BadField(places.strict, fmt::format("{} must be true or false.", places.strict), "invalid_type"));
  }
  if (!names_.insert(name->get<std::string>()).second) {
    return Fail(
        BadField(places.name, fmt::format("{}: two tools have the name {}.", places.name, Shown(*name))));
  }
  bytes_ += tool.dump(-1, ' ', false, Json::error_handler_t::replace).size();
  if (bytes_ > kMaxToolsBytes) {
    return Fail(
        BadField("tools", fmt::format("the tools are more than {} bytes of JSON; send fewer or shorter ones.",
                                      kMaxToolsBytes)));
  }
  request_.tools.push_back(std::move(tool));
  return {};
}

}  // namespace tidepool::gateway
