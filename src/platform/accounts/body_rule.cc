#include "platform/accounts/body_rule.h"

#include <nlohmann/json.hpp>

namespace tidepool::platform {

nlohmann::ordered_json RedactJson(const BodyRule& rule) {
  nlohmann::ordered_json out;
  for (size_t i = 0; i < kRedactNames.size(); ++i) out[std::string(kRedactNames[i])] = rule.redact[i];
  out["patterns"] = rule.patterns;
  return out;
}

void ReadRedact(const nlohmann::ordered_json& json, BodyRule& rule) {
  if (!json.is_object()) return;
  for (size_t i = 0; i < kRedactNames.size(); ++i) {
    const auto found = json.find(kRedactNames[i]);
    if (found != json.end() && found->is_boolean()) rule.redact[i] = found->get<bool>();
  }
  const auto patterns = json.find("patterns");
  if (patterns == json.end() || !patterns->is_array()) return;
  rule.patterns.clear();
  for (const auto& pattern : *patterns) {
    if (pattern.is_string()) rule.patterns.push_back(pattern.get<std::string>());
  }
}

}  // namespace tidepool::platform
