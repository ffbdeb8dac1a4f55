#include "server/settings_editor.h"

#include <fmt/format.h>

#include <algorithm>

#include "platform/accounts/private_file.h"

namespace tidepool::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostText = 4096;  // of one value

Error BadValue(const std::string& name, std::string_view what) {
  return {.kind = ErrorKind::kInvalid,
          .code = "bad_setting",
          .message = fmt::format("setting {}: {}", name, what),
          .param = name};
}

Result<std::string> TextOf(const std::string& name, const Json& value) {
  std::string text;
  if (value.is_string()) {
    text = value.get<std::string>();
  } else if (value.is_boolean() || value.is_number()) {
    text = value.dump();
  } else if (value.is_array() &&
             std::all_of(value.begin(), value.end(), [](const Json& one) { return one.is_string(); })) {
    for (const Json& one : value) text += (text.empty() ? "" : ",") + one.get<std::string>();
  } else {
    return Fail(BadValue(name, "the value must be text, a number, true or false, a list of text, or null"));
  }
  if (text.size() > kMostText) return Fail(BadValue(name, fmt::format("at most {} bytes", kMostText)));
  // The file could not be read again, or would mean something else to who reads it.
  const bool control = std::any_of(text.begin(), text.end(),
                                   [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  if (control) return Fail(BadValue(name, "the value has control characters"));
  return text;
}

std::map<std::string, Json> ById(const Json& rows) {
  std::map<std::string, Json> out;
  for (const Json& row : rows) out[row["id"].get<std::string>()] = row;
  return out;
}

}  // namespace

SettingsEditor::SettingsEditor(const Settings& running, Hooks hooks)
    : running_(running), hooks_(std::move(hooks)) {
  // The start read it already, so it can be read.
  if (running.input.console) {
    console_ = *running.input.console;
  } else if (auto kept = ReadConsoleFile(running.home)) {
    console_ = std::move(*kept);
  }
}

Result<Settings> SettingsEditor::Resolve(const std::map<std::string, std::string>& console) const {
  SettingsInput input = running_.input;
  input.console = console;
  TP_ASSIGN(Settings next, ResolveSettings(input));
  if (hooks_.check) TP_TRY(hooks_.check(next));
  return next;
}

Json SettingsEditor::Describe() const {
  const std::lock_guard lock(mutex_);
  Json rows = DescribeSettings(running_);
  // The settings file may have been edited since: the next start may take another value, or none at all.
  const Result<Settings> next = Resolve(console_);
  const std::map<std::string, Json> then =
      next ? ById(DescribeSettings(*next)) : std::map<std::string, Json>();
  for (Json& row : rows) {
    const auto id = row["id"].get<std::string>();
    if (const auto it = applied_.find(id); it != applied_.end()) {
      row["value"] = it->second;
      row["source"] = "console";
    }
    const auto it = then.find(id);
    const bool other = it != then.end() && it->second["value"] != row["value"];
    row["next"] = other ? it->second["value"] : Json(nullptr);
    row["next_source"] = it != then.end() ? it->second["source"] : Json(nullptr);
    row["live"] = hooks_.live.contains(id);
  }
  return rows;
}

Status SettingsEditor::Change(const Json& values, const Record& record) {
  if (!values.is_object() || values.empty())
    return Fail(ErrorKind::kInvalid, "missing_field", "values must name at least one setting", "values");
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::string> wanted = console_;
  Json before = Json::object(), after = Json::object();
  for (const auto& [name, value] : values.items()) {
    const std::optional<bool> editable = IsEditable(name);
    if (!editable) {
      return Fail(ErrorKind::kInvalid, "unknown_setting",
                  fmt::format("there is no setting {}; GET /api/v1/settings lists them", name.substr(0, 100)),
                  name.substr(0, 100));
    }
    if (!*editable) {
      return Fail(ErrorKind::kForbidden, "setting_not_editable",
                  fmt::format("{} reaches beyond the server; set it in its file, a variable or a flag", name),
                  name);
    }
    const auto old = console_.find(name);
    before[name] = old == console_.end() ? Json(nullptr) : Json(old->second);
    if (value.is_null()) {
      wanted.erase(name);
      after[name] = nullptr;
      continue;
    }
    TP_ASSIGN(wanted[name], TextOf(name, value));
    after[name] = wanted[name];
  }
  TP_ASSIGN(const Settings next, Resolve(wanted));
  TP_TRY(record(before, after));
  const std::map<std::string, Json> then = ById(DescribeSettings(next));
  std::map<std::string, std::string> applied = applied_;
  for (const auto& [name, value] : values.items()) {
    const auto live = hooks_.live.find(name);
    if (live == hooks_.live.end()) continue;
    TP_TRY(live->second(next));
    applied[name] = then.at(name)["value"].get<std::string>();
  }
  TP_TRY(platform::WritePrivateFile(running_.home / kConsoleFile, ConsoleFileText(wanted)));
  console_ = std::move(wanted);
  applied_ = std::move(applied);
  return {};
}

}  // namespace tidepool::server
