// Reading a dialect's request by a table of its fields: types, ranges and what happens to each field are
// data, from which validation, the Tidepool-Ignored header and the OpenAPI schema all come.
//
// Every field of a request ends in one of three ways: read, refused (400 that names it), or reported as
// ignored.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::gateway::openai {

using Json = nlohmann::ordered_json;

enum class FieldType : uint8_t { kAny, kBoolean, kInteger, kNumber, kString, kArray, kObject };
enum class Treatment : uint8_t {
  kRead,
  kIgnored,  // harmless: reported in the header
  kRefused,  // would change the answer, and is not supported: 400, unless the value asks for nothing
};

struct Field {
  std::string_view name;
  FieldType type = FieldType::kAny;
  Treatment treatment = Treatment::kRead;
  std::string_view help;
  double low = 0, high = 0;  // numbers, inclusive; low == high: no bound
  bool low_open = false;     // low itself is out of range
  // kRefused: true for values that ask for nothing (tools: [], response_format: {"type": "text"}).
  bool (*asks_nothing)(const Json& value) = nullptr;
};

// A null value is the same as no value.
class FieldReader {
 public:
  FieldReader(const Json& body, std::span<const Field> table) : body_(body), table_(table) {}
  // Types, ranges and refusals of all fields. The getters below are for fields that passed.
  Status Check();
  const Json* Find(std::string_view name) const;
  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  std::optional<double> Number(std::string_view name) const;
  std::optional<int64_t> Integer(std::string_view name) const;
  std::optional<bool> Boolean(std::string_view name) const;
  std::optional<std::string> String(std::string_view name) const;
  // Names of fields that were given and have no effect, unknown ones too.
  const std::vector<std::string>& ignored() const { return ignored_; }

 private:
  Status CheckOne(const Field& field, const Json& value);
  const Json& body_;
  std::span<const Field> table_;
  std::vector<std::string> ignored_;
};

Error BadField(std::string_view name, std::string message, std::string code = "invalid_value");
// The value as it may be shown in an error: short.
std::string Shown(const Json& value);
// JSON schema of an object with the fields of the table. `required` names some of them.
Json SchemaOf(std::span<const Field> table, std::initializer_list<std::string_view> required);
// "a, b" with only characters that a header may hold, at most 20 names.
std::string IgnoredHeader(const std::vector<std::string>& names);

}  // namespace tidepool::gateway::openai
