// Reading a dialect's request by tables of its fields: types, ranges and what happens to each field are
// data, from which validation, the Tidepool-Ignored header, the OpenAPI schema and docs/dialects.md all come.
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

namespace tidepool::gateway {

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
  // `at`: where in the request the object is ("tools[1]"), for errors; "": it is the request.
  FieldReader(const Json& body, std::span<const Field> table, std::string at = {})
      : body_(body), table_(table), at_(std::move(at)) {}
  // Types, ranges and refusals of all fields. The getters below are for fields that passed.
  Status Check();
  const Json* Find(std::string_view name) const;
  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  std::optional<double> Number(std::string_view name) const;
  std::optional<int64_t> Integer(std::string_view name) const;
  std::optional<bool> Boolean(std::string_view name) const;
  std::optional<std::string> String(std::string_view name) const;
  // Where a field of this object is, for errors: "tools[1].name".
  std::string Place(std::string_view name) const;
  // Names of fields that were given and have no effect, unknown ones too; those of an object within the
  // request without its indices: "tools.cache_control".
  const std::vector<std::string>& ignored() const { return ignored_; }

 private:
  Status CheckOne(const Field& field, const Json& value);
  void Ignore(std::string_view name);
  const Json& body_;
  std::span<const Field> table_;
  const std::string at_;
  std::vector<std::string> ignored_;
};

// The field `model` of any dialect; `list` is where its clients find the names: "GET /v1/models".
Result<std::string> ReadModelName(const FieldReader& reader, std::string_view list = "GET /v1/models");
Error BadField(std::string_view name, std::string message, std::string code = "invalid_value");
// The value as it may be shown in an error: short.
std::string Shown(const Json& value);
// JSON schema of an object with the fields of the table. `required` names some of them.
Json SchemaOf(std::span<const Field> table, std::initializer_list<std::string_view> required);
// Adds the names that are not there yet: a list of a thousand objects names a field once.
void AddIgnored(const std::vector<std::string>& names, std::vector<std::string>& to);
// "a, b" with only characters that a header may hold, at most 20 names.
std::string IgnoredHeader(const std::vector<std::string>& names);

}  // namespace tidepool::gateway
