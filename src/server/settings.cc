#include "server/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "platform/catalog/catalog.h"
#include "server/settings_file.h"
#include "server/settings_table.h"

extern char** environ;

namespace tidepool::server {
namespace {

using Kind = SettingSpec::Kind;

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

std::optional<double> ParseNumber(std::string_view text) {
  double value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

std::vector<std::string> SplitList(std::string_view text) {
  std::vector<std::string> items;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view item = Trim(text.substr(0, comma));
    if (!item.empty()) items.emplace_back(item);
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  return items;
}

std::string ExpandHome(std::string_view text) {
  if (text.substr(0, 2) != "~/" && text != "~") return std::string(text);
  const char* user_home = std::getenv("HOME");
  return std::string(user_home != nullptr ? user_home : "/root") + std::string(text.substr(1));
}

bool ParseInto(const SettingSpec& spec, std::string_view raw, Settings& settings) {
  const std::string_view text = Trim(raw);
  void* field = spec.field(settings);
  switch (spec.kind) {
    case Kind::kText: *static_cast<std::string*>(field) = std::string(text); return true;
    case Kind::kPath:
      if (text.empty()) return false;
      *static_cast<std::filesystem::path*>(field) = std::filesystem::absolute(ExpandHome(text));
      return true;
    case Kind::kBool: {
      const bool yes = text == "true" || text == "1" || text == "yes" || text == "on";
      const bool no = text == "false" || text == "0" || text == "no" || text == "off";
      if (!yes && !no) return false;
      *static_cast<bool*>(field) = yes;
      return true;
    }
    case Kind::kInt: {
      const auto value = ParseNumber(text);
      if (!value || *value != std::floor(*value) || *value < spec.min || *value > spec.max) return false;
      *static_cast<int64_t*>(field) = static_cast<int64_t>(*value);
      return true;
    }
    case Kind::kNumber: {
      const auto value = ParseNumber(text);
      if (!value || *value < spec.min || *value > spec.max) return false;
      *static_cast<double*>(field) = *value;
      return true;
    }
    case Kind::kBytes: {
      const auto value = ParseBytes(text);
      if (!value || static_cast<double>(*value) < spec.min || static_cast<double>(*value) > spec.max)
        return false;
      *static_cast<uint64_t*>(field) = *value;
      return true;
    }
    case Kind::kMemory: {
      if (!text.empty() && text.back() == '%') {
        const auto share = ParseNumber(text.substr(0, text.size() - 1));
        if (!share || *share < 1 || *share > 95) return false;
      } else {
        const auto value = ParseBytes(text);
        if (!value || *value < (uint64_t{16} << 20)) return false;
      }
      *static_cast<std::string*>(field) = std::string(text);
      return true;
    }
    case Kind::kChoice:
      if (std::find(spec.choices.begin(), spec.choices.end(), text) == spec.choices.end()) return false;
      *static_cast<std::string*>(field) = std::string(text);
      return true;
    case Kind::kList: *static_cast<std::vector<std::string>*>(field) = SplitList(text); return true;
  }
  return false;
}

std::string ShowValue(const SettingSpec& spec, const Settings& settings) {
  // Reading through the same accessor; nothing is changed.
  void* field = spec.field(const_cast<Settings&>(settings));
  switch (spec.kind) {
    case Kind::kText:
    case Kind::kMemory:
    case Kind::kChoice: {
      const auto& text = *static_cast<std::string*>(field);
      return spec.secret && !text.empty() ? "(set)" : text;
    }
    case Kind::kPath: return static_cast<std::filesystem::path*>(field)->string();
    case Kind::kBool: return *static_cast<bool*>(field) ? "true" : "false";
    case Kind::kInt: return std::to_string(*static_cast<int64_t*>(field));
    case Kind::kNumber: return fmt::format("{}", *static_cast<double*>(field));
    case Kind::kBytes: return std::to_string(*static_cast<uint64_t*>(field));
    case Kind::kList:
      return fmt::format("{}", fmt::join(*static_cast<std::vector<std::string>*>(field), ","));
  }
  return "";
}

Status Apply(const SettingSpec& spec, std::string_view text, std::string_view source,
             const std::string& where, Settings& settings) {
  if (!ParseInto(spec, text, settings)) {
    return Fail(ErrorKind::kInvalid, "bad_setting",
                fmt::format("setting {} ({}) has the value '{}'; allowed: {}", spec.name, where,
                            spec.secret ? "(secret)" : text, AllowedText(spec)),
                std::string(spec.name));
  }
  settings.sources[std::string(spec.name)] = std::string(source);
  return {};
}

tl::unexpected<Error> UnknownSetting(const std::string& name, const std::string& where,
                                     const std::vector<std::string>& known) {
  const std::vector<std::string> close = platform::CloseNames(name, known, 2);
  std::string hint = close.empty() ? std::string("see `tidepool settings`")
                                   : fmt::format("did you mean {}?", fmt::join(close, " or "));
  return Fail(ErrorKind::kInvalid, "unknown_setting",
              fmt::format("unknown setting {} ({}); {}", name, where, hint), name);
}

Status ApplyFile(const std::filesystem::path& path, Settings& settings) {
  TP_ASSIGN(const auto values, ReadSettingsFile(path));
  std::vector<std::string> known;
  for (const SettingSpec& spec : SettingSpecs()) known.emplace_back(spec.name);
  for (const auto& [name, text] : values) {
    const auto spec = std::find_if(SettingSpecs().begin(), SettingSpecs().end(),
                                   [&](const SettingSpec& s) { return s.name == name; });
    if (spec == SettingSpecs().end()) return UnknownSetting(name, "file " + path.string(), known);
    if (name == "home") {
      return Fail(ErrorKind::kInvalid, "bad_setting",
                  "setting home cannot be in the settings file, which is found through it; use TIDEPOOL_HOME "
                  "or --home",
                  "home");
    }
    TP_TRY(Apply(*spec, text, "file", "file " + path.string(), settings));
  }
  return {};
}

Status ApplyConsole(const std::map<std::string, std::string>& values, const std::string& where,
                    Settings& settings) {
  for (const auto& [name, text] : values) {
    const auto spec = std::find_if(SettingSpecs().begin(), SettingSpecs().end(),
                                   [&](const SettingSpec& s) { return s.name == name; });
    // A version with other settings may have written it: what is unknown is no reason not to start.
    if (spec == SettingSpecs().end() || !Editable(*spec)) continue;
    TP_TRY(Apply(*spec, text, "console", where, settings));
  }
  return {};
}

Status ApplyEnvironment(const SettingsInput& input, Settings& settings) {
  std::vector<std::string> known;
  for (const SettingSpec& spec : SettingSpecs()) known.push_back(EnvironmentName(spec.name));
  for (const auto& [name, value] : input.environment) {
    if (name.rfind("TIDEPOOL_", 0) != 0 || OtherVariables().contains(name)) continue;
    const auto at = std::find(known.begin(), known.end(), name);
    if (at == known.end()) return UnknownSetting(name, "environment", known);
    TP_TRY(Apply(SettingSpecs()[static_cast<size_t>(at - known.begin())], value, "environment",
                 "variable " + name, settings));
  }
  return {};
}

// Flags are "--name value" or "--name=value"; a switch may stand alone.
Result<std::vector<std::pair<const SettingSpec*, std::string>>> ParseFlags(
    const std::vector<std::string>& flags) {
  std::vector<std::string> known;
  for (const SettingSpec& spec : SettingSpecs()) known.push_back(FlagName(spec.name));
  std::vector<std::pair<const SettingSpec*, std::string>> parsed;
  for (size_t i = 0; i < flags.size(); ++i) {
    const size_t equals = flags[i].find('=');
    const std::string name = flags[i].substr(0, equals);
    const auto at = std::find(known.begin(), known.end(), name);
    if (at == known.end()) return UnknownSetting(name, "flag", known);
    const SettingSpec& spec = SettingSpecs()[static_cast<size_t>(at - known.begin())];
    if (equals != std::string::npos) {
      parsed.emplace_back(&spec, flags[i].substr(equals + 1));
    } else if (spec.kind == Kind::kBool) {
      parsed.emplace_back(&spec, "true");
    } else if (i + 1 < flags.size()) {
      parsed.emplace_back(&spec, flags[++i]);
    } else {
      return Fail(ErrorKind::kInvalid, "bad_setting",
                  fmt::format("flag {} needs a value: {}", name, AllowedText(spec)), std::string(spec.name));
    }
  }
  return parsed;
}

const SettingSpec& SpecOf(std::string_view name) {
  return *std::find_if(SettingSpecs().begin(), SettingSpecs().end(),
                       [&](const SettingSpec& s) { return s.name == name; });
}

}  // namespace

Result<uint64_t> ParseBytes(std::string_view text) {
  text = Trim(text);
  size_t digits = 0;
  while (digits < text.size() &&
         (std::isdigit(static_cast<unsigned char>(text[digits])) || text[digits] == '.')) {
    ++digits;
  }
  const auto value = ParseNumber(text.substr(0, digits));
  std::string unit(Trim(text.substr(digits)));
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::tolower(c); });
  static const std::map<std::string, double> kUnits = {{"", 1},
                                                       {"b", 1},
                                                       {"k", 1024.0},
                                                       {"kib", 1024.0},
                                                       {"kb", 1e3},
                                                       {"m", 1048576.0},
                                                       {"mib", 1048576.0},
                                                       {"mb", 1e6},
                                                       {"g", 1073741824.0},
                                                       {"gib", 1073741824.0},
                                                       {"gb", 1e9},
                                                       {"t", 1099511627776.0},
                                                       {"tib", 1099511627776.0},
                                                       {"tb", 1e12}};
  const auto factor = kUnits.find(unit);
  if (!value || factor == kUnits.end() || *value < 0 || *value * factor->second > 9e18) {
    return Fail(ErrorKind::kInvalid, "bad_bytes",
                fmt::format("'{}' is not a number of bytes; write 512MiB or 12GiB", text));
  }
  return static_cast<uint64_t>(*value * factor->second);
}

std::vector<std::pair<std::string, std::string>> ProcessEnvironment() {
  std::vector<std::pair<std::string, std::string>> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos)
      variables.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

Result<Settings> ResolveSettings(const SettingsInput& input) {
  Settings settings;
  for (const SettingSpec& spec : SettingSpecs()) {
    TP_TRY(Apply(spec, spec.fallback, "default", "default", settings));
  }
  TP_ASSIGN(const auto flags, ParseFlags(input.flags));
  // The home comes first: the file is found through it.
  for (const auto& [name, value] : input.environment) {
    if (name == "TIDEPOOL_HOME")
      TP_TRY(Apply(SpecOf("home"), value, "environment", "variable TIDEPOOL_HOME", settings));
  }
  for (const auto& [spec, value] : flags) {
    if (spec->name == "home") TP_TRY(Apply(*spec, value, "flag", "flag --home", settings));
  }
  const std::filesystem::path home = settings.home;
  if (!input.config_file.empty()) {
    TP_TRY(ApplyFile(input.config_file, settings));
  } else if (std::error_code ignored; std::filesystem::exists(home / "tidepool.toml", ignored)) {
    TP_TRY(ApplyFile(home / "tidepool.toml", settings));
  }
  if (input.console) {
    TP_TRY(ApplyConsole(*input.console, "changed through the API", settings));
  } else {
    TP_ASSIGN(const auto console, ReadConsoleFile(home));
    TP_TRY(ApplyConsole(console, "file " + (home / kConsoleFile).string(), settings));
  }
  TP_TRY(ApplyEnvironment(input, settings));
  for (const auto& [spec, value] : flags) {
    TP_TRY(Apply(*spec, value, "flag", "flag " + FlagName(spec->name), settings));
  }
  settings.input = input;
  return settings;
}

Result<uint64_t> MemoryBytes(std::string_view text, uint64_t machine_bytes) {
  if (text.ends_with('%')) {
    const auto share = ParseNumber(text.substr(0, text.size() - 1));
    if (!share || *share < 0 || *share > 100) {
      return Fail(ErrorKind::kInvalid, "invalid_parameter",
                  fmt::format("\"{}\" is no share of memory; give 0% to 100% or bytes such as 8GiB", text));
    }
    return static_cast<uint64_t>(static_cast<double>(machine_bytes) * *share / 100);
  }
  return ParseBytes(text);
}

nlohmann::ordered_json DescribeSettings(const Settings& settings) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const SettingSpec& spec : SettingSpecs()) {
    const auto source = settings.sources.find(std::string(spec.name));
    rows.push_back({{"id", spec.name},
                    {"value", ShowValue(spec, settings)},
                    {"source", source == settings.sources.end() ? "default" : source->second},
                    {"default", spec.fallback},
                    {"allowed", AllowedText(spec)},
                    {"help", spec.help},
                    {"environment", EnvironmentName(spec.name)},
                    {"flag", FlagName(spec.name)},
                    {"kind", KindName(spec.kind)},
                    {"minimum", spec.max > spec.min ? nlohmann::ordered_json(spec.min) : nullptr},
                    {"maximum", spec.max > spec.min ? nlohmann::ordered_json(spec.max) : nullptr},
                    {"choices", spec.choices},
                    {"editable", Editable(spec)}});
  }
  return rows;
}

std::optional<bool> IsEditable(std::string_view name) {
  for (const SettingSpec& spec : SettingSpecs()) {
    if (spec.name == name) return Editable(spec);
  }
  return std::nullopt;
}

Result<std::map<std::string, std::string>> ReadConsoleFile(const std::filesystem::path& home) {
  std::map<std::string, std::string> values;
  std::error_code ignored;
  if (!std::filesystem::exists(home / kConsoleFile, ignored)) return values;
  TP_ASSIGN(const auto pairs, ReadSettingsFile(home / kConsoleFile));
  for (const auto& [name, text] : pairs) values[name] = text;
  return values;
}

std::string ConsoleFileText(const std::map<std::string, std::string>& values) {
  std::string text = "# Settings changed through the API or the console, which write this file again.\n";
  for (const auto& [name, value] : values)
    text += fmt::format("{} = {}\n", name, nlohmann::json(value).dump(-1, ' ', true));
  return text;
}

std::string SettingsReference() {
  std::string page =
      "# Settings\n\n"
      "<!-- Generated by `tidepool settings --reference`; a test compares it with the code. -->\n\n"
      "One TOML file (`$TIDEPOOL_HOME/tidepool.toml`, or `--config FILE`), what was changed in the console\n"
      "(`console.toml` beside it), `TIDEPOOL_*` variables, flags of `tidepool serve`; each beats those "
      "before\n"
      "it. Unknown names are errors.\n";
  std::string section = "-";
  for (const SettingSpec& spec : SettingSpecs()) {
    const size_t dot = spec.name.find('.');
    const std::string own(dot == std::string_view::npos ? "" : spec.name.substr(0, dot));
    if (own != section) {
      section = own;
      page += own.empty() ? "\n## General\n\n" : fmt::format("\n## [{}]\n\n", own);
      page += "| setting | default | allowed | variable | flag | what it does |\n|---|---|---|---|---|---|\n";
    }
    page += fmt::format("| `{}` | {} | {} | `{}` | `{}` | {} |\n", spec.name,
                        spec.fallback.empty() ? std::string("(empty)") : fmt::format("`{}`", spec.fallback),
                        AllowedText(spec), EnvironmentName(spec.name), FlagName(spec.name), spec.help);
  }
  return page;
}

std::string SettingsHelp() {
  std::string text;
  for (const SettingSpec& spec : SettingSpecs()) {
    text += fmt::format("  {:<32} {} [{}]\n", FlagName(spec.name), spec.help, spec.fallback);
  }
  return text;
}

}  // namespace tidepool::server
