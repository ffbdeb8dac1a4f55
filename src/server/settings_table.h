// The table of settings: what each is called, is, may be, and which member of Settings it fills. Internal to
// this folder; a new setting is a row of it.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/settings.h"

namespace tidepool::server {

struct SettingSpec {
  enum class Kind { kText, kPath, kBool, kInt, kNumber, kBytes, kMemory, kChoice, kList };
  std::string_view name;
  Kind kind;
  std::string_view fallback;
  std::string_view help;
  std::function<void*(Settings&)> field;  // points at the typed member
  double min = 0, max = 0;
  std::vector<std::string_view> choices = {};
  bool secret = false;
};

const std::vector<SettingSpec>& SettingSpecs();
// Variables that scripts and clients read, never settings of the server.
const std::set<std::string_view>& OtherVariables();

std::string EnvironmentName(std::string_view name);
std::string FlagName(std::string_view name);
std::string_view KindName(SettingSpec::Kind kind);
std::string AllowedText(const SettingSpec& spec);  // for people
// From the console: not whom the server lets in and listens to, where it sends and fetches, what it runs,
// reads and writes.
bool Editable(const SettingSpec& spec);

}  // namespace tidepool::server
