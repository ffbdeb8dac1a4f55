// What a workspace lets the server keep of what its requests say. Off unless an admin turned it on.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::platform {

// What is taken out before anything is stored, as platform/request_bodies/redaction.h finds it.
enum class Redact : uint8_t { kEmail, kPhone, kCard, kIban, kToken, kIp };
inline constexpr std::array<std::string_view, 6> kRedactNames = {"email", "phone", "card",
                                                                 "iban",  "token", "ip"};

struct BodyRule {
  bool store = false;
  int32_t retention_days = 30;
  std::array<bool, kRedactNames.size()> redact = {true, true, true, true, true, true};  // by Redact
  std::vector<std::string> patterns;  // regular expressions of the workspace's own

  bool Redacts(Redact kind) const { return redact[static_cast<size_t>(kind)]; }
  friend bool operator==(const BodyRule&, const BodyRule&) = default;
};

// What `store` of the Responses API means.
enum class ResponsesRule : uint8_t {
  kAsAsked,  // what the client says; stored if it says nothing
  kNever,
};
inline constexpr std::array<std::string_view, 2> kResponsesRuleNames = {"as_asked", "never"};

// {"email": true, .., "patterns": [..]}: as the API shows it, the store keeps it and the audit log has it.
nlohmann::ordered_json RedactJson(const BodyRule& rule);
// What the object names is changed, the rest stays. What it cannot read is left out: the API has checked.
void ReadRedact(const nlohmann::ordered_json& json, BodyRule& rule);

}  // namespace tidepool::platform
