// Reading a dialect's request by tables of its fields: types, ranges and what happens to each field are
// data, from which validation, the Tidepool-Ignored header, the OpenAPI schema and docs/dialects.md all come.
//
// Every field of a request, and of the objects within it, ends in one of these ways: it has its effect,
// is refused (400 that names it), or is named as ignored.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tidepool::gateway {

using Json = nlohmann::ordered_json;

enum class FieldType : uint8_t { kAny, kBoolean, kInteger, kNumber, kString, kArray, kObject };
enum class Treatment : uint8_t {
  kRead,
  kAccepted,  // no effect is needed: what it asks for is so anyway, or it comes back as the server sent it
  kTemplate,  // shown to the model's chat template; reported in the header if that does not mention its name
  kIgnored,   // harmless: reported in the header
  kRefused,   // would change the answer, and is not supported: 400, unless the value asks for nothing
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

// A member of an object that the model's chat template sees whole.
struct TemplateMember {
  std::string path;  // as the header names it: "messages[].mood"
  std::string name;  // what a template that reads it mentions: "mood"
};

// What becomes of fields that no table lists.
enum class Unlisted : uint8_t { kIgnored, kTemplate };

// A null value is the same as no value.
class FieldReader {
 public:
  // `at`: where in the request the object is ("tools[1]"), for errors; "": it is the request.
  FieldReader(const Json& body, std::span<const Field> table, std::string at = {},
              Unlisted unlisted = Unlisted::kIgnored)
      : body_(body), table_(table), at_(std::move(at)), unlisted_(unlisted) {}
  // Types, ranges and refusals of all fields. The getters below are for fields that passed.
  Status Check();
  const Json* Find(std::string_view name) const;
  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  // Is it in the table?
  bool Lists(std::string_view name) const;
  std::optional<double> Number(std::string_view name) const;
  std::optional<int64_t> Integer(std::string_view name) const;
  std::optional<bool> Boolean(std::string_view name) const;
  std::optional<std::string> String(std::string_view name) const;
  // Where a field of this object is, for errors: "tools[1].name".
  std::string Place(std::string_view name) const;
  // Names of fields that were given and have no effect, unknown ones too; those of an object within the
  // request without its indices: "tools[].cache_control".
  const std::vector<std::string>& ignored() const { return ignored_; }
  const std::vector<TemplateMember>& template_members() const { return template_members_; }

 private:
  Status CheckOne(const Field& field, const Json& value);
  std::string HeaderPath(std::string_view name) const;
  void Ignore(std::string_view name);
  void ShowTemplate(std::string_view name);
  const Json& body_;
  std::span<const Field> table_;
  const std::string at_;
  const Unlisted unlisted_;
  std::vector<std::string> ignored_;
  std::vector<TemplateMember> template_members_;
};

// FieldReader::Check, and its ignored fields to `ignored`.
Status CheckFields(FieldReader& reader, std::vector<std::string>& ignored);

// For tests: what the readers of this thread look up while it lives. One at a time.
class FieldLookups {
 public:
  FieldLookups();
  ~FieldLookups();
  FieldLookups(const FieldLookups&) = delete;
  FieldLookups& operator=(const FieldLookups&) = delete;
  bool Saw(std::span<const Field> table, std::string_view name) const;
  // Looked up, though the reader's table does not list it.
  const std::vector<std::string>& unlisted() const { return unlisted_; }
  void Note(std::span<const Field> table, std::string_view name);

 private:
  std::set<std::pair<const Field*, std::string>> seen_;
  std::vector<std::string> unlisted_;
};

// The field `model` of any dialect; `list` is where its clients find the names: "GET /v1/models".
Result<std::string> ReadModelName(const FieldReader& reader, std::string_view list = "GET /v1/models");
Error BadField(std::string_view name, std::string message, std::string code = "invalid_value");
// The value as it may be shown in an error: short.
std::string Shown(const Json& value);
// JSON schema of an object with the fields of the table. `required` names some of them.
Json SchemaOf(std::span<const Field> table, std::initializer_list<std::string_view> required);
// Adds the names that are not there yet, up to one more than the header shows: a list of a thousand objects
// names a field once, and a hostile one costs no more than that.
void AddIgnored(const std::vector<std::string>& names, std::vector<std::string>& to);
void AddTemplateMembers(const std::vector<TemplateMember>& members, std::vector<TemplateMember>& to);
// Is this name a word of the template's text? (It may be another object's member there: then a member is
// taken for read that is not.)
bool TemplateMentions(std::string_view chat_template, std::string_view name);
// "a, b" with only characters that a header may hold, at most 20 names.
std::string IgnoredHeader(const std::vector<std::string>& names);

}  // namespace tidepool::gateway
