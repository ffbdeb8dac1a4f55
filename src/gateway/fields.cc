#include "gateway/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "gateway/json_body.h"

namespace tidepool::gateway {
namespace {

// What the header shows.
constexpr size_t kMaxShownNames = 20;
constexpr size_t kMaxShownBytes = 64;

// Of the test that runs in this thread; nullptr: nobody asks.
thread_local FieldLookups* lookups = nullptr;

bool IsWordCharacter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

std::string_view TypeName(FieldType type) {
  switch (type) {
    case FieldType::kBoolean: return "boolean";
    case FieldType::kInteger: return "integer";
    case FieldType::kNumber: return "number";
    case FieldType::kString: return "string";
    case FieldType::kArray: return "array";
    case FieldType::kObject: return "object";
    case FieldType::kAny: break;
  }
  return "value";
}

bool IsWhole(const Json& value) {
  if (value.is_number_integer()) return true;
  // 1.0 is an integer to JSON; some clients send numbers that way.
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  return std::floor(number) == number && std::abs(number) < 9.0e15;
}

bool HasType(const Json& value, FieldType type) {
  switch (type) {
    case FieldType::kBoolean: return value.is_boolean();
    case FieldType::kInteger: return IsWhole(value);
    case FieldType::kNumber: return value.is_number();
    case FieldType::kString: return value.is_string();
    case FieldType::kArray: return value.is_array();
    case FieldType::kObject: return value.is_object();
    case FieldType::kAny: return true;
  }
  return false;
}

std::string Bounds(const Field& field) {
  if (field.high == std::numeric_limits<double>::infinity()) {
    return fmt::format("{} {}", field.low_open ? "above" : "at least", field.low);
  }
  return fmt::format("{} {} and at most {}", field.low_open ? "above" : "at least", field.low, field.high);
}

}  // namespace

Error BadField(std::string_view name, std::string message, std::string code) {
  return Error{ErrorKind::kInvalid, std::move(code), std::move(message), std::string(name), 0};
}

std::string Shown(const Json& value) {
  if (value.is_structured())
    return fmt::format("{} of {}", value.is_array() ? "an array" : "an object", value.size());
  std::string text = DumpJson(value);
  if (text.size() > 80) {
    text.resize(77);
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xc0) == 0x80) text.pop_back();
    text += "...";
  }
  return text;
}

std::string FieldReader::Place(std::string_view name) const {
  return at_.empty() ? std::string(name) : fmt::format("{}.{}", at_, name);
}

// "messages[2]" and "mood": "messages[].mood".
std::string FieldReader::HeaderPath(std::string_view name) const {
  std::string path;
  bool index = false;
  for (const char c : at_) {
    if (c == ']') index = false;
    if (!index) path.push_back(c);
    if (c == '[') index = true;
  }
  if (!path.empty()) path.push_back('.');
  return path.append(name.substr(0, kMaxShownBytes));
}

void FieldReader::Ignore(std::string_view name) { AddIgnored({HeaderPath(name)}, ignored_); }

void FieldReader::ShowTemplate(std::string_view name) {
  AddTemplateMembers({{HeaderPath(name), std::string(name)}}, template_members_);
}

bool FieldReader::Lists(std::string_view name) const {
  return std::any_of(table_.begin(), table_.end(), [&](const Field& f) { return f.name == name; });
}

const Json* FieldReader::Find(std::string_view name) const {
  if (lookups != nullptr) lookups->Note(table_, name);
  const auto found = body_.find(name);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

Status FieldReader::Check() {
  for (const auto& [key, value] : body_.items()) {
    const auto field =
        std::find_if(table_.begin(), table_.end(), [&](const Field& f) { return f.name == key; });
    if (field == table_.end()) {
      unlisted_ == Unlisted::kTemplate ? ShowTemplate(key) : Ignore(key);
      continue;
    }
    if (!value.is_null()) TP_TRY(CheckOne(*field, value));
  }
  return {};
}

Status FieldReader::CheckOne(const Field& field, const Json& value) {
  if (field.treatment == Treatment::kIgnored) {
    Ignore(field.name);
    return {};
  }
  const std::string place = Place(field.name);
  if (field.treatment == Treatment::kRefused) {
    if (field.asks_nothing != nullptr && field.asks_nothing(value)) return {};
    return Fail(BadField(place, fmt::format("{}: {} (got {}).", place, field.help, Shown(value)),
                         "unsupported_parameter"));
  }
  if (!HasType(value, field.type)) {
    return Fail(BadField(
        place, fmt::format("{} must be of type {}, not {}.", place, TypeName(field.type), Shown(value)),
        "invalid_type"));
  }
  if (value.is_number() && field.low != field.high) {
    const double number = value.get<double>();
    const bool inside = number <= field.high && (field.low_open ? number > field.low : number >= field.low);
    if (!inside) {
      return Fail(BadField(place, fmt::format("{} must be {}, not {}.", place, Bounds(field), Shown(value))));
    }
  }
  if (field.treatment == Treatment::kTemplate) ShowTemplate(field.name);
  return {};
}

Status CheckFields(FieldReader& reader, std::vector<std::string>& ignored) {
  TP_TRY(reader.Check());
  AddIgnored(reader.ignored(), ignored);
  return {};
}

FieldLookups::FieldLookups() { lookups = this; }
FieldLookups::~FieldLookups() { lookups = nullptr; }

void FieldLookups::Note(std::span<const Field> table, std::string_view name) {
  const bool listed =
      std::any_of(table.begin(), table.end(), [&](const Field& field) { return field.name == name; });
  if (listed) {
    seen_.emplace(table.data(), name);
  } else {
    unlisted_.emplace_back(name);
  }
}

bool FieldLookups::Saw(std::span<const Field> table, std::string_view name) const {
  return seen_.contains({table.data(), std::string(name)});
}

std::optional<double> FieldReader::Number(std::string_view name) const {
  const Json* value = Find(name);
  return value == nullptr ? std::nullopt : std::optional<double>(value->get<double>());
}

std::optional<int64_t> FieldReader::Integer(std::string_view name) const {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  // A seed may be any 64-bit pattern; nlohmann wraps an unsigned value beyond int64.
  return value->is_number_float() ? static_cast<int64_t>(value->get<double>()) : value->get<int64_t>();
}

std::optional<bool> FieldReader::Boolean(std::string_view name) const {
  const Json* value = Find(name);
  return value == nullptr ? std::nullopt : std::optional<bool>(value->get<bool>());
}

std::optional<std::string> FieldReader::String(std::string_view name) const {
  const Json* value = Find(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value->get<std::string>());
}

Json SchemaOf(std::span<const Field> table, std::initializer_list<std::string_view> required) {
  Json schema;
  schema["type"] = "object";
  Json names = Json::array();
  for (const std::string_view name : required) names.push_back(name);
  if (!names.empty()) schema["required"] = std::move(names);
  Json properties = Json::object();
  for (const Field& field : table) {
    Json property = Json::object();
    if (field.type != FieldType::kAny) property["type"] = TypeName(field.type);
    std::string help(field.help);
    if (field.treatment == Treatment::kRefused) help = fmt::format("Refused: {}.", help);
    if (field.treatment == Treatment::kIgnored) {
      help = help.empty() ? "Ignored, named in the header Tidepool-Ignored."
                          : fmt::format("Ignored, named in the header Tidepool-Ignored: {}.", help);
    }
    if (!help.empty()) property["description"] = std::move(help);
    if (field.low != field.high) {
      const auto bound = [&](double value) -> Json {
        if (field.type == FieldType::kInteger) return static_cast<int64_t>(value);
        return value;
      };
      property[field.low_open ? "exclusiveMinimum" : "minimum"] = bound(field.low);
      if (std::isfinite(field.high)) property["maximum"] = bound(field.high);
    }
    if (field.treatment == Treatment::kIgnored || field.treatment == Treatment::kRefused)
      property["deprecated"] = true;
    properties[std::string(field.name)] = std::move(property);
  }
  schema["properties"] = std::move(properties);
  return schema;
}

void AddIgnored(const std::vector<std::string>& names, std::vector<std::string>& to) {
  for (const std::string& name : names) {
    if (to.size() > kMaxShownNames) return;
    if (std::find(to.begin(), to.end(), name) == to.end()) to.push_back(name);
  }
}

void AddTemplateMembers(const std::vector<TemplateMember>& members, std::vector<TemplateMember>& to) {
  for (const TemplateMember& member : members) {
    if (to.size() > kMaxShownNames) return;
    if (std::none_of(to.begin(), to.end(), [&](const TemplateMember& m) { return m.path == member.path; }))
      to.push_back(member);
  }
}

bool TemplateMentions(std::string_view chat_template, std::string_view name) {
  if (name.empty()) return false;
  for (size_t at = chat_template.find(name); at != std::string_view::npos;
       at = chat_template.find(name, at + 1)) {
    const size_t end = at + name.size();
    const bool begins = at == 0 || !IsWordCharacter(chat_template[at - 1]);
    const bool ends = end == chat_template.size() || !IsWordCharacter(chat_template[end]);
    if (begins && ends) return true;
  }
  return false;
}

std::string IgnoredHeader(const std::vector<std::string>& names) {
  std::string out;
  size_t shown = 0;
  for (const std::string& name : names) {
    if (shown == kMaxShownNames) {
      out += ", ...";
      break;
    }
    if (!out.empty()) out += ", ";
    for (const char c : std::string_view(name).substr(0, kMaxShownBytes)) {
      const bool plain = IsWordCharacter(c) || c == '-' || c == '.' || c == '[' || c == ']';
      out.push_back(plain ? c : '?');
    }
    ++shown;
  }
  return out;
}

Result<std::string> ReadModelName(const FieldReader& reader, std::string_view list) {
  constexpr size_t kMaxModelName = 512;
  auto model = reader.String("model");
  if (!model || model->empty()) {
    return Fail(BadField("model", fmt::format("model is missing; {} lists the models there are.", list),
                         "missing_field"));
  }
  if (model->size() > kMaxModelName) return Fail(BadField("model", "model is too long."));
  return *std::move(model);
}

}  // namespace tidepool::gateway
