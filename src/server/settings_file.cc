#include "server/settings_file.h"

#include <fmt/format.h>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

namespace tidepool::server {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

Result<std::string> ScalarText(const toml::node& node, const std::string& name, const std::string& file) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto yes = node.value_exact<bool>()) return std::string(*yes ? "true" : "false");
  if (const auto whole = node.value_exact<int64_t>()) return std::to_string(*whole);
  if (const auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  return Fail(
      ErrorKind::kInvalid, "bad_setting",
      fmt::format("setting {} (file {}, line {}) is neither text, number, true/false nor a list of those",
                  name, file, node.source().begin.line),
      name);
}

Status Flatten(const toml::table& table, const std::string& prefix, const std::string& file, Pairs& out) {
  for (const auto& [key, node] : table) {
    const std::string name =
        prefix.empty() ? std::string(key.str()) : fmt::format("{}.{}", prefix, key.str());
    if (const toml::table* inner = node.as_table()) {
      if (!prefix.empty()) {
        return Fail(
            ErrorKind::kInvalid, "unknown_setting",
            fmt::format("unknown section {} (file {}, line {})", name, file, node.source().begin.line), name);
      }
      TP_TRY(Flatten(*inner, name, file, out));
    } else if (const toml::array* list = node.as_array()) {
      std::string joined;
      for (const toml::node& item : *list) {
        TP_ASSIGN(const std::string text, ScalarText(item, name, file));
        joined += (joined.empty() ? "" : ",") + text;
      }
      out.emplace_back(name, joined);
    } else {
      TP_ASSIGN(std::string text, ScalarText(node, name, file));
      out.emplace_back(name, std::move(text));
    }
  }
  return {};
}

}  // namespace

Result<Pairs> ReadSettingsFile(const std::filesystem::path& path) {
  const toml::parse_result parsed = toml::parse_file(path.string());
  if (!parsed) {
    const auto& problem = parsed.error();
    return Fail(
        ErrorKind::kInvalid, "bad_settings_file",
        fmt::format("settings file {} cannot be read: {} (line {}, column {})", path.string(),
                    problem.description(), problem.source().begin.line, problem.source().begin.column),
        path.string());
  }
  Pairs pairs;
  TP_TRY(Flatten(parsed.table(), "", path.string(), pairs));
  return pairs;
}

}  // namespace tidepool::server
