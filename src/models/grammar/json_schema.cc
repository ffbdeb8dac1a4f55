#include "models/grammar/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "models/grammar/json_values.h"
#include "models/grammar/regex.h"
#include "models/grammar/schema_merge.h"

namespace tidepool::grammar {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxSchemaDepth = 100;
constexpr size_t kMaxSchemas = 20'000;  // looked at, those that merging makes included
constexpr int32_t kMaxMultiple = 1024;
constexpr int64_t kMaxBound = 1'000'000'000;

constexpr std::string_view kObjectWords[] = {"properties",    "required",      "additionalProperties",
                                             "minProperties", "maxProperties", "patternProperties"};
constexpr std::string_view kArrayWords[] = {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"};
constexpr std::string_view kStringWords[] = {"minLength", "maxLength", "pattern", "format"};
constexpr std::string_view kNumberWords[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
                                             "multipleOf"};
constexpr std::string_view kRefused[] = {"not",
                                         "if",
                                         "then",
                                         "else",
                                         "contains",
                                         "minContains",
                                         "maxContains",
                                         "patternProperties",
                                         "propertyNames",
                                         "dependentRequired",
                                         "dependentSchemas",
                                         "dependencies",
                                         "unevaluatedProperties",
                                         "unevaluatedItems",
                                         "$dynamicRef",
                                         "$recursiveRef",
                                         "additionalItems"};

// Matched whole; every month has the days that each year gives it.
constexpr std::string_view kDate =
    "[1-9]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2["
    "0-8]))";
constexpr std::string_view kTime =
    "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";
constexpr std::string_view kOctet = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
constexpr std::string_view kLabel = "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?";

std::optional<std::string> FormatPattern(std::string_view format) {
  if (format == "date") return std::string(kDate);
  if (format == "time") return std::string(kTime);
  if (format == "date-time") return fmt::format("{}T{}", kDate, kTime);
  if (format == "duration")
    return "P(\\d{1,4}W|(\\d{1,4}Y)?(\\d{1,4}M)?\\d{1,4}D(T\\d{1,4}H)?|T(\\d{1,4}H)?(\\d{1,4}M)?\\d{1,4}S)";
  if (format == "uuid") return "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
  if (format == "ipv4") return fmt::format("{0}\\.{0}\\.{0}\\.{0}", kOctet);
  if (format == "ipv6") return "([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}";
  if (format == "hostname") return fmt::format("{0}(\\.{0}){{0,3}}", kLabel);
  if (format == "email")
    return fmt::format("[A-Za-z0-9_+-]{{1,32}}(\\.[A-Za-z0-9_+-]{{1,16}}){{0,2}}@{0}(\\.{0}){{1,3}}", kLabel);
  if (format == "uri")
    return fmt::format(
        "https?://{0}(\\.{0}){{0,3}}(:[1-9]\\d{{1,3}})?(/[A-Za-z0-9._~-]*)*(\\?[A-Za-z0-9._~=&-]*)?", kLabel);
  return std::nullopt;
}

std::string Escaped(std::string_view key) {  // RFC 6901
  std::string out;
  for (const char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

class SchemaCompiler {
 public:
  SchemaCompiler(const Json& root, std::string_view field, Expressions& out)
      : root_(root), field_(field), out_(out), values_(out), merge_(root) {}

  Result<ExprId> Run() {
    TP_ASSIGN(const ExprId value, Value(root_, "", 0));
    return value;
  }

 private:
  using Made = Result<ExprId>;

  tl::unexpected<Error> Refuse(const std::string& at, std::string_view why,
                               std::string code = "unsupported_schema") const {
    return Fail(ErrorKind::kInvalid, std::move(code),
                fmt::format("{}{}: {}", field_, at.empty() ? "#" : at, why), std::string(field_) + at);
  }
  tl::unexpected<Error> Invalid(const std::string& at, std::string_view why) const {
    return Refuse(at, why, "invalid_schema");
  }
  static std::string Under(const std::string& at, std::string_view key) { return at + "/" + Escaped(key); }

  // ---- a schema's parts, checked

  Result<std::optional<int32_t>> Count(const Json& schema, const char* key, const std::string& at) {
    const auto found = schema.find(key);
    if (found == schema.end()) return std::optional<int32_t>();
    const bool whole = found->is_number_integer() ||
                       (found->is_number_float() && found->get<double>() == std::floor(found->get<double>()));
    if (!found->is_number() || !whole || found->get<double>() < 0)
      return Invalid(Under(at, key), "must be a whole number of 0 or more");
    return std::optional<int32_t>(
        static_cast<int32_t>(std::min<double>(found->get<double>(), static_cast<double>(kMaxBound))));
  }

  Result<std::set<std::string>> Types(const Json& schema, const std::string& at) {
    static const std::set<std::string> kAll = {"null", "boolean", "object", "array", "number", "string"};
    std::set<std::string> types;
    const auto given = schema.find("type");
    if (given == schema.end()) {
      const auto has = [&](const auto& words) {
        return std::any_of(std::begin(words), std::end(words),
                           [&](std::string_view word) { return schema.contains(word); });
      };
      if (has(kObjectWords)) types.insert("object");
      if (has(kArrayWords)) types.insert("array");
      if (has(kStringWords)) types.insert("string");
      if (has(kNumberWords)) types.insert("number");
      return types.empty() ? kAll : types;
    }
    const Json list = given->is_array() ? *given : Json::array({*given});
    for (const Json& type : list) {
      if (!type.is_string() || (!kAll.contains(type.get<std::string>()) && type != "integer")) {
        return Invalid(Under(at, "type"),
                       "must be null, boolean, object, array, number, integer, string or a list of them");
      }
      types.insert(type.get<std::string>());
    }
    if (types.contains("number")) types.erase("integer");
    // "nullable" is OpenAPI 3.0's: to JSON Schema it says nothing, so null is not written for it.
    return types;
  }

  // ---- schemas

  Made Value(const Json& schema, const std::string& at, int depth) {
    if (++seen_ > kMaxSchemas || out_.overflow()) {
      return Refuse(at, "the schema is too complex once its references and alternatives are written out",
                    "schema_too_complex");
    }
    if (depth > kMaxSchemaDepth)
      return Refuse(at, fmt::format("the schema is nested deeper than {} levels", kMaxSchemaDepth),
                    "schema_too_complex");
    if (schema.is_boolean()) return schema.get<bool>() ? values_.Any() : out_.Never();
    if (!schema.is_object()) return Invalid(at, "a schema must be an object, true or false");
    TP_TRY(CheckWords(schema, at));
    if (schema.contains("$ref")) return Reference(schema, at, depth);
    if (schema.contains("allOf")) return AllOf(schema, at, depth);
    if (schema.contains("anyOf")) return AnyOf(schema, "anyOf", at, depth);
    if (schema.contains("oneOf")) return AnyOf(schema, "oneOf", at, depth);
    if (schema.contains("enum") || schema.contains("const")) return Enumerated(schema, at);
    TP_ASSIGN(const std::set<std::string> types, Types(schema, at));
    std::vector<ExprId> choices;
    for (const std::string& type : types) {
      TP_ASSIGN(const ExprId choice, OfType(type, schema, at, depth));
      choices.push_back(choice);
    }
    return out_.Choice(std::move(choices));
  }

  Status CheckWords(const Json& schema, const std::string& at) const {
    for (const std::string_view word : kRefused) {
      if (schema.contains(word) && !Harmless(schema, word)) {
        return Refuse(Under(at, word),
                      fmt::format("\"{}\" cannot be enforced; leave it out or say it in other words", word));
      }
    }
    return {};
  }

  // Before it is merged with others: afterwards its words stand in no place of the client's schema.
  Status CheckPart(const Json& part, const std::string& at, int depth) {
    if (!part.is_object() || depth > kMaxSchemaDepth || ++seen_ > kMaxSchemas) return {};  // Value says so
    TP_TRY(CheckWords(part, at));
    if (const auto parts = part.find("allOf"); parts != part.end() && parts->is_array()) {
      for (size_t i = 0; i < parts->size(); ++i)
        TP_TRY(CheckPart((*parts)[i], fmt::format("{}/allOf/{}", at, i), depth + 1));
    }
    const auto reference = part.find("$ref");
    if (reference == part.end() || !reference->is_string()) return {};
    const auto& name = reference->get_ref<const std::string&>();
    const Json* target = merge_.Find(name);
    return target == nullptr || !checked_.insert(name).second ? Status()
                                                              : CheckPart(*target, name.substr(1), depth + 1);
  }

  static bool Harmless(const Json& schema, std::string_view word) {
    const Json& value = schema[std::string(word)];
    if (word == "patternProperties" || word.starts_with("depend")) return value.is_object() && value.empty();
    if (word == "then" || word == "else") return !schema.contains("if");
    if (word == "minContains" || word == "maxContains") return !schema.contains("contains");
    if (word == "additionalItems")
      return true;  // only beside an array of items, which Merge's normal form reads
    return (word == "unevaluatedProperties" || word == "unevaluatedItems" || word == "propertyNames") &&
           value == true;
  }

  Made Reference(const Json& schema, const std::string& at, int depth) {
    TP_ASSIGN(const Json* target, Target(schema, at));
    if (HasAssertions(schema, {"$ref"})) {
      TP_TRY(CheckPart(*target, schema["$ref"].get<std::string>().substr(1), depth + 1));
      Json rest = schema;
      rest.erase("$ref");
      TP_ASSIGN(const Json merged, Merged(*target, rest, at));
      return Value(merged, at, depth + 1);
    }
    const std::string name = schema["$ref"].get<std::string>();
    const auto [entry, fresh] = references_.try_emplace(name, RuleId{0});
    if (fresh) {
      entry->second = out_.AddRule(name);
      const RuleId rule = entry->second;
      TP_ASSIGN(const ExprId body, Value(*target, name.substr(1), depth + 1));
      out_.Define(rule, body);
      return out_.Rule(rule);
    }
    return out_.Rule(entry->second);
  }

  Result<const Json*> Target(const Json& schema, const std::string& at) {
    const Json& reference = schema["$ref"];
    if (!reference.is_string()) return Invalid(Under(at, "$ref"), "must be a string");
    const Json* target = merge_.Find(reference.get_ref<const std::string&>());
    if (target == nullptr) {
      return Refuse(
          Under(at, "$ref"),
          fmt::format("{} is nowhere in this schema; only references like #/$defs/name are followed",
                      reference.get_ref<const std::string&>().substr(0, 100)));
    }
    return target;
  }

  Result<Json> Merged(const Json& a, const Json& b, const std::string& at) {
    Result<Json> merged = merge_.Both(a, b, 0);
    if (merged) return merged;
    return Refuse(at, merged.error().message, merged.error().code);
  }

  Made AllOf(const Json& schema, const std::string& at, int depth) {
    const Json& parts = schema["allOf"];
    if (!parts.is_array() || parts.empty()) return Invalid(Under(at, "allOf"), "must be a list of schemas");
    Json all = schema;
    all.erase("allOf");
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::string where = fmt::format("{}/allOf/{}", at, i);
      TP_TRY(CheckPart(parts[i], where, depth + 1));
      TP_ASSIGN(all, Merged(all, parts[i], where));
    }
    return Value(all, at, depth + 1);
  }

  Made AnyOf(const Json& schema, const char* word, const std::string& at, int depth) {
    const std::string place = Under(at, word);
    const Json& options = schema[word];
    if (!options.is_array() || options.empty()) return Invalid(place, "must be a list of schemas");
    Json base = schema;
    base.erase(word);
    const bool merge = HasAssertions(base, {});
    std::vector<Json> branches;
    std::vector<ExprId> choices;
    for (size_t i = 0; i < options.size(); ++i) {
      const std::string where = fmt::format("{}/{}", place, i);
      Json branch = options[i];
      if (merge) {
        TP_ASSIGN(branch, Merged(base, options[i], where));
      }
      TP_ASSIGN(const ExprId choice, Value(branch, where, depth + 1));
      choices.push_back(choice);
      if (std::string_view(word) == "oneOf" && !out_.IsNever(choice)) {
        for (size_t j = 0; j < branches.size(); ++j) {
          if (merge_.Apart(branches[j], branch) && merge_.Apart(branch, branches[j])) continue;
          if (merge_.exhausted())
            return Refuse(place, "it has too many branches to tell apart", "schema_too_complex");
          return Refuse(place,
                        fmt::format("branch {} may overlap with one before it, so that exactly one cannot be "
                                    "promised; give the "
                                    "branches a required property with different const values, or use anyOf",
                                    i));
        }
        branches.push_back(std::move(branch));
      }
    }
    return out_.Choice(std::move(choices));
  }

  Made Enumerated(const Json& schema, const std::string& at) {
    Json listed = Json::array();
    if (schema.contains("enum")) {
      if (!schema["enum"].is_array()) return Invalid(Under(at, "enum"), "must be a list");
      listed = schema["enum"];
    }
    if (schema.contains("const")) {
      const Json& only = schema["const"];
      const bool in = !schema.contains("enum") ||
                      std::any_of(listed.begin(), listed.end(), [&](const Json& v) { return v == only; });
      listed = in ? Json::array({only}) : Json::array();
    }
    TP_ASSIGN(const std::set<std::string> types, Types(schema, at));
    std::vector<std::string> plain;
    std::vector<ExprId> choices;
    for (const Json& value : listed) {
      if (schema.contains("type") && !types.contains(TypeOf(value)) &&
          !(types.contains("number") && value.is_number()))
        continue;
      const Fits fits = merge_.ValueFits(value, schema);
      if (merge_.exhausted())
        return Refuse(at, "too many values and keywords beside them", "schema_too_complex");
      if (fits == Fits::kUnknown) {
        return Refuse(Under(at, schema.contains("enum") ? "enum" : "const"),
                      "other keywords beside it cannot be checked against its values; leave them out");
      }
      if (fits == Fits::kNo) continue;
      if (value.is_structured()) {
        choices.push_back(values_.Literal(value));
      } else {
        plain.push_back(value.dump(-1, ' ', false, Json::error_handler_t::replace));
      }
    }
    if (!plain.empty()) choices.push_back(out_.Strings(std::move(plain)));
    return out_.Choice(std::move(choices));
  }

  Made OfType(const std::string& type, const Json& schema, const std::string& at, int depth) {
    if (type == "null") return out_.Bytes("null");
    if (type == "boolean") return out_.Strings({"true", "false"});
    if (type == "string") return String(schema, at);
    if (type == "object") return Object(schema, at, depth);
    if (type == "array") return Array(schema, at, depth);
    return Number(schema, type == "integer", at);
  }

  // ---- scalars

  Made String(const Json& schema, const std::string& at) {
    TP_ASSIGN(const auto min, Count(schema, "minLength", at));
    TP_ASSIGN(const auto max, Count(schema, "maxLength", at));
    const bool bounded = min.value_or(0) > 0 || max.has_value();
    const auto pattern = schema.find("pattern");
    const auto format = schema.find("format");
    std::optional<std::string> regex;
    std::string place;
    if (format != schema.end()) {
      place = Under(at, "format");
      if (!format->is_string()) return Invalid(place, "must be a string");
      regex = FormatPattern(format->get_ref<const std::string&>());
      if (!regex) {
        return Refuse(place, fmt::format("format \"{}\" cannot be enforced; leave it out, or use date, time, "
                                         "date-time, duration, uuid, "
                                         "email, hostname, ipv4, ipv6 or uri",
                                         format->get_ref<const std::string&>().substr(0, 64)));
      }
      // Formats are whole; the patterns below are alternatives.
      regex = "^(?:" + *regex + ")$";
    }
    if (pattern != schema.end()) {
      if (!pattern->is_string()) return Invalid(Under(at, "pattern"), "must be a string");
      if (regex)
        return Refuse(Under(at, "pattern"), "pattern and format together cannot be enforced; leave one out");
      place = Under(at, "pattern");
      regex = pattern->get<std::string>();
    }
    if (!regex)
      return min.value_or(0) > max.value_or(INT32_MAX)
                 ? out_.Never()
                 : values_.String(min.value_or(0), max.value_or(kUnbounded));
    if (bounded) {
      return Refuse(Under(at, min.value_or(0) > 0 ? "minLength" : "maxLength"),
                    "a length together with a pattern or format cannot be enforced; put the length into the "
                    "pattern, as {m,n}");
    }
    const auto body = ParseRegex(*regex, RegexUse::kJsonString, out_);
    if (!body) return Refuse(place, body.error().message);
    const ExprId quote = out_.Bytes("\"");
    return out_.Sequence({quote, *body, quote});
  }

  Made Number(const Json& schema, bool integer, const std::string& at) {
    NumberBounds bounds;
    const auto read = [&](const char* key, std::optional<Decimal>& into) -> Status {
      const auto found = schema.find(key);
      if (found == schema.end()) return {};
      if (!found->is_number()) return Invalid(Under(at, key), "must be a number");
      into = Decimal::From(*found);
      if (!into) return Refuse(Under(at, key), "numbers beyond 15 digits cannot be enforced");
      return {};
    };
    std::optional<Decimal> above, below;
    TP_TRY(read("minimum", bounds.least));
    TP_TRY(read("maximum", bounds.most));
    TP_TRY(read("exclusiveMinimum", above));
    TP_TRY(read("exclusiveMaximum", below));
    if (above &&
        (!bounds.least || schema["exclusiveMinimum"].get<double>() >= schema["minimum"].get<double>())) {
      bounds.least = above;
      bounds.above = true;
    }
    if (below &&
        (!bounds.most || schema["exclusiveMaximum"].get<double>() <= schema["maximum"].get<double>())) {
      bounds.most = below;
      bounds.below = true;
    }
    const auto multiple = schema.find("multipleOf");
    if (multiple != schema.end()) {
      const std::string place = Under(at, "multipleOf");
      if (!multiple->is_number() || multiple->get<double>() <= 0)
        return Invalid(place, "must be a number above 0");
      const double of = multiple->get<double>();
      if (of == 1) {
        integer = true;
      } else if (of != static_cast<double>(static_cast<int32_t>(std::min(of, 1e9))) || of > kMaxMultiple) {
        return Refuse(place, fmt::format("only whole numbers up to {} can be enforced", kMaxMultiple));
      } else if (bounds.least || bounds.most) {
        return Refuse(place, "a multiple together with a minimum or maximum cannot be enforced; use an enum");
      } else {
        return values_.IntegerMultiple(static_cast<int32_t>(of));
      }
    }
    return integer ? values_.Integer(bounds) : values_.Number(bounds);
  }

  // ---- arrays

  Made Array(const Json& schema, const std::string& at, int depth) {
    TP_ASSIGN(const auto least, Count(schema, "minItems", at));
    TP_ASSIGN(const auto most, Count(schema, "maxItems", at));
    const int32_t min = least.value_or(0);
    int32_t max = most.value_or(kUnbounded);
    if (schema.value("uniqueItems", Json()) == true && (max == kUnbounded || max > 1)) {
      return Refuse(Under(at, "uniqueItems"),
                    "\"uniqueItems\" cannot be enforced; leave it out, or list what is possible in an enum");
    }
    const std::string items_at = Under(at, schema.contains("prefixItems") ? "prefixItems" : "items");
    Json prefix = Json::array();
    Json items = schema.value("items", Json());
    if (schema.contains("prefixItems")) prefix = schema["prefixItems"];
    if (items.is_array()) {  // draft 7's tuples
      prefix = items;
      items = schema.value("additionalItems", Json());
    }
    if (!prefix.is_array()) return Invalid(items_at, "must be a list of schemas");
    // Beside a prefix, more items come only where `items` says what they are (or as many as minItems wants).
    if (items.is_null()) {
      items = true;
      if (!prefix.empty() && max == kUnbounded) max = std::max(min, static_cast<int32_t>(prefix.size()));
    }
    std::vector<ExprId> first;
    for (size_t i = 0; i < prefix.size(); ++i) {
      TP_ASSIGN(const ExprId item, Value(prefix[i], fmt::format("{}/{}", items_at, i), depth + 1));
      first.push_back(item);
    }
    TP_ASSIGN(const ExprId more, Value(items, Under(at, "items"), depth + 1));
    if (max != kUnbounded && min > max) return out_.Never();

    // From the end: what may stand after the i-th item.
    const ExprId comma = out_.Sequence({out_.Bytes(","), values_.Space()});
    const ExprId end = out_.Sequence({values_.Space(), out_.Bytes("]")});
    const auto count = static_cast<int32_t>(first.size());
    const int32_t fixed = max == kUnbounded ? count : std::min(count, max);
    const int32_t rest_min = std::max(0, min - fixed);
    const int32_t rest_max = max == kUnbounded ? kUnbounded : max - fixed;
    if (fixed < count && min > fixed) return out_.Never();
    ExprId tail = out_.Sequence({out_.Repeat(out_.Sequence({comma, more}), rest_min, rest_max), end});
    const ExprId empty = out_.Bytes("]");
    if (fixed == 0) {
      std::vector<ExprId> choices;
      if (min == 0) choices.push_back(empty);
      if (rest_max != 0) {
        const ExprId others = out_.Repeat(out_.Sequence({comma, more}), std::max(0, rest_min - 1),
                                          rest_max == kUnbounded ? kUnbounded : rest_max - 1);
        choices.push_back(out_.Sequence({more, others, end}));
      }
      return out_.Sequence({out_.Bytes("["), values_.Space(), out_.Choice(std::move(choices))});
    }
    for (int32_t i = fixed - 1; i > 0; --i) {
      const RuleId rule = out_.AddRule("items");
      const ExprId next = out_.Sequence({comma, first[static_cast<size_t>(i)], tail});
      out_.Define(rule, i >= min ? out_.Choice({next, end}) : next);
      tail = out_.Rule(rule);
    }
    std::vector<ExprId> choices{out_.Sequence({first[0], tail})};
    if (min == 0) choices.push_back(empty);
    return out_.Sequence({out_.Bytes("["), values_.Space(), out_.Choice(std::move(choices))});
  }

  // ---- objects

  struct Property {
    std::string name;
    ExprId value = 0;
    bool required = false;
  };

  Made Object(const Json& schema, const std::string& at, int depth) {
    const Json properties = schema.value("properties", Json::object());
    if (!properties.is_object()) return Invalid(Under(at, "properties"), "must be an object of schemas");
    const Json required = schema.value("required", Json::array());
    if (!required.is_array() ||
        std::any_of(required.begin(), required.end(), [](const Json& name) { return !name.is_string(); })) {
      return Invalid(Under(at, "required"), "must be a list of strings");
    }
    Json additional = schema.value("additionalProperties", Json());
    if (additional.is_null()) additional = properties.empty();
    const std::string additional_at = Under(at, "additionalProperties");

    std::vector<Property> listed;
    std::vector<std::string> names;
    std::set<std::string> missing;
    for (const Json& name : required) missing.insert(name.get<std::string>());
    for (const auto& [name, sub] : properties.items()) {
      TP_ASSIGN(const ExprId value, Value(sub, Under(Under(at, "properties"), name), depth + 1));
      const bool needed = missing.erase(name) > 0;
      names.push_back(name);
      if (!out_.IsNever(value) || needed) listed.push_back({name, value, needed});
    }
    // Required without being described: as additionalProperties says, or, where that is not said, anything.
    for (const Json& name : required) {
      const auto& text = name.get_ref<const std::string&>();
      if (missing.erase(text) == 0) continue;
      const Json described = schema.contains("additionalProperties") ? additional : Json(true);
      TP_ASSIGN(const ExprId value, Value(described, additional_at, depth + 1));
      names.push_back(text);
      listed.push_back({names.back(), value, true});
    }
    TP_ASSIGN(const ExprId extra, Value(additional, additional_at, depth + 1));
    TP_ASSIGN(const auto least, Count(schema, "minProperties", at));
    TP_ASSIGN(const auto most, Count(schema, "maxProperties", at));
    const auto needed = static_cast<int32_t>(
        std::count_if(listed.begin(), listed.end(), [](const Property& p) { return p.required; }));
    int32_t min = least.value_or(0) > needed ? *least : 0;
    if (most && (*most < needed || *most < min)) return out_.Never();
    if (min > static_cast<int32_t>(listed.size()) + (out_.IsNever(extra) ? 0 : 1)) {
      // Additional keys may repeat each other, and then count once.
      if (out_.IsNever(extra)) return out_.Never();
      return Refuse(Under(at, "minProperties"),
                    "more properties than are described, and one, cannot be enforced");
    }
    const ExprId pair = out_.Sequence({values_.Key(names), out_.Bytes(":"), values_.Space(), extra});
    ObjectTails tails{
        .listed = std::move(listed), .pair = pair, .min = min, .max = most.value_or(kUnbounded)};
    const ExprId first = Tail(tails, 0, 0);
    while (!tails.open.empty()) {
      if (out_.overflow())
        return Refuse(at, "the schema has too many ways to leave properties out", "schema_too_complex");
      const auto [i, said, rule] = tails.open.back();
      tails.open.pop_back();
      out_.Define(rule, TailBody(tails, i, said));
    }
    return out_.Sequence({out_.Bytes("{"), values_.Space(), first});
  }

  struct ObjectTails {
    std::vector<Property> listed;
    ExprId pair = 0;
    int32_t min = 0, max = kUnbounded;
    std::map<std::pair<size_t, int32_t>, RuleId> known{};
    // Named and not yet defined: a list, not a recursion, because properties may be thousands.
    std::vector<std::tuple<size_t, int32_t, RuleId>> open{};
  };

  // What may stand from property `i` on, when `said` came before (counted no further than it matters).
  ExprId Tail(ObjectTails& tails, size_t i, int32_t said) {
    const int32_t cap = std::max(1, tails.max == kUnbounded ? tails.min : tails.max);
    said = std::min(said, cap);
    const auto [entry, fresh] = tails.known.try_emplace({i, said}, RuleId{0});
    if (!fresh) return out_.Rule(entry->second);
    entry->second = out_.AddRule("properties");
    tails.open.emplace_back(i, said, entry->second);
    return out_.Rule(entry->second);
  }

  ExprId TailBody(ObjectTails& tails, size_t i, int32_t said) {
    const ExprId comma = said > 0 ? out_.Sequence({out_.Bytes(","), values_.Space()}) : out_.Empty();
    const bool room = tails.max == kUnbounded || said < tails.max;
    if (i < tails.listed.size()) {
      const Property& property = tails.listed[i];
      std::vector<ExprId> choices;
      if (room && !out_.IsNever(property.value)) {
        const ExprId key = values_.Literal(Json(property.name));
        const ExprId value = property.value;
        choices.push_back(out_.Sequence(
            {comma, key, out_.Bytes(":"), values_.Space(), value, Tail(tails, i + 1, said + 1)}));
      }
      if (!property.required) choices.push_back(Tail(tails, i + 1, said));
      return out_.Choice(std::move(choices));
    }
    const ExprId end = said > 0 ? out_.Sequence({values_.Space(), out_.Bytes("}")}) : out_.Bytes("}");
    std::vector<ExprId> choices;
    if (said >= tails.min) choices.push_back(end);
    if (room && said + 1 >= tails.min && !out_.IsNever(tails.pair)) {
      const ExprId next = out_.Sequence({out_.Bytes(","), values_.Space(), tails.pair});
      const int32_t more = tails.max == kUnbounded ? kUnbounded : tails.max - said - 1;
      choices.push_back(
          out_.Sequence({comma, tails.pair, out_.Repeat(next, 0, more), values_.Space(), out_.Bytes("}")}));
    }
    return out_.Choice(std::move(choices));
  }

  const Json& root_;
  const std::string_view field_;
  Expressions& out_;
  JsonValues values_;
  SchemaMerge merge_;
  size_t seen_ = 0;
  std::map<std::string, RuleId> references_;
  std::set<std::string> checked_;  // references whose words CheckPart has looked at
};

}  // namespace

Result<ExprId> ParseJsonSchema(const Json& schema, std::string_view field, Expressions& out) {
  return SchemaCompiler(schema, field, out).Run();
}

ExprId AnyJsonObject(Expressions& out) { return JsonValues(out).AnyObject(); }

}  // namespace tidepool::grammar
