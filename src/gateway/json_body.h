// Reading a client's JSON: bounded depth and size, no duplicate keys (two readers could disagree about them),
// valid UTF-8. Linear in the body's size whatever it holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/result.h"

namespace tidepool::gateway {

struct JsonLimits {
  int32_t max_depth = 64;
  size_t max_values = 2'000'000;      // of the whole body: a value takes 16 bytes and more
  size_t max_keys_per_object = 4096;  // look-ups in an ordered object are linear
};

// kInvalid "malformed_json" with the place, "json_too_deep", "duplicate_key", "json_too_large".
Result<nlohmann::ordered_json> ParseJson(std::string_view text, const JsonLimits& limits);

// `value` as text; bytes that are not UTF-8 become U+FFFD.
std::string DumpJson(const nlohmann::ordered_json& value);

// Appends "..." with the escapes of JSON. Bytes that are not UTF-8 become U+FFFD.
void AppendJsonString(std::string& out, std::string_view text);

}  // namespace tidepool::gateway
