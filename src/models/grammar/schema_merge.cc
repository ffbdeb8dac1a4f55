#include "models/grammar/schema_merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "models/text/utf8.h"

namespace tidepool::grammar {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxMergeDepth = 50;
constexpr size_t kMaxProduct = 64;  // branches of two anyOf together

constexpr std::string_view kAnnotations[] = {"title",
                                             "description",
                                             "default",
                                             "examples",
                                             "$schema",
                                             "$id",
                                             "id",
                                             "$comment",
                                             "$defs",
                                             "definitions",
                                             "deprecated",
                                             "readOnly",
                                             "writeOnly",
                                             "$anchor",
                                             "$vocabulary",
                                             "nullable",
                                             "contentEncoding",
                                             "contentMediaType",
                                             "contentSchema",
                                             "example",
                                             "strict",
                                             "name",
                                             "xml",
                                             "externalDocs",
                                             "discriminator"};

bool IsAnnotation(std::string_view key) {
  return std::find(std::begin(kAnnotations), std::end(kAnnotations), key) != std::end(kAnnotations) ||
         key.starts_with("x-");
}

tl::unexpected<Error> CannotMerge(std::string_view key) {
  return Fail(ErrorKind::kInvalid, "unsupported_schema",
              fmt::format("\"{}\" is said twice in ways that cannot be enforced together", key));
}

Json List(const Json& value) { return value.is_array() ? value : Json::array({value}); }

// Types that are in both; "integer" is a "number".
Json BothTypes(const Json& a, const Json& b) {
  Json out = Json::array();
  for (const Json& x : List(a)) {
    for (const Json& y : List(b)) {
      const Json both = x == y ? x
                        : (x == "integer" && y == "number") || (x == "number" && y == "integer")
                            ? Json("integer")
                            : Json();
      if (!both.is_null() && std::find(out.begin(), out.end(), both) == out.end()) out.push_back(both);
    }
  }
  return out;
}

// The types a schema allows, with "number" as "integer" and "number"; empty: all.
std::set<std::string> TypesOf(const Json& schema) {
  std::set<std::string> out;
  if (schema.contains("enum") && schema["enum"].is_array()) {
    for (const Json& value : schema["enum"]) out.insert(TypeOf(value));
    return out;
  }
  if (schema.contains("const")) return {TypeOf(schema["const"])};
  if (!schema.contains("type")) return out;
  for (const Json& type : List(schema["type"])) {
    if (!type.is_string()) return {};
    out.insert(type.get<std::string>());
    if (type == "number") out.insert("integer");
  }
  return out;
}

std::optional<Json> ValuesOf(const Json& schema) {
  if (schema.contains("const")) return Json::array({schema["const"]});
  if (schema.contains("enum") && schema["enum"].is_array()) return schema["enum"];
  return std::nullopt;
}

bool Requires(const Json& schema, const std::string& name) {
  const auto required = schema.find("required");
  return required != schema.end() && required->is_array() &&
         std::find(required->begin(), required->end(), Json(name)) != required->end();
}

// What a copy of it costs.
size_t ValuesIn(const Json& value) {
  size_t count = 1;
  if (value.is_structured()) {
    for (const Json& part : value) count += ValuesIn(part);
  }
  return count;
}

size_t SizeOf(const Json& schema, const char* key) {
  const auto found = schema.find(key);
  return found == schema.end() ? 0 : found->size();
}

size_t Characters(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

std::string TypeOf(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "boolean";
  if (value.is_string()) return "string";
  if (value.is_array()) return "array";
  if (value.is_object()) return "object";
  if (value.is_number_float() && std::floor(value.get<double>()) != value.get<double>()) return "number";
  return "integer";
}

bool HasAssertions(const Json& schema, std::initializer_list<std::string_view> but) {
  for (const auto& [key, value] : schema.items()) {
    if (!IsAnnotation(key) && std::find(but.begin(), but.end(), key) == but.end()) return true;
  }
  return false;
}

const Json* SchemaMerge::Find(const std::string& reference) const {
  if (reference.empty() || reference[0] != '#') return nullptr;
  const Json* at = &root_;
  size_t begin = 1;
  if (reference.size() > 1 && reference[1] != '/') return nullptr;
  while (begin < reference.size()) {
    size_t end = reference.find('/', begin + 1);
    if (end == std::string::npos) end = reference.size();
    std::string key;
    for (size_t i = begin + 1; i < end; ++i) {
      const std::string_view rest = std::string_view(reference).substr(i, std::min<size_t>(3, end - i));
      if (rest.starts_with("~0") || rest.starts_with("~1")) {
        key += rest[1] == '0' ? '~' : '/';
        ++i;
      } else if (rest.size() == 3 && rest[0] == '%' &&
                 std::isxdigit(static_cast<unsigned char>(rest[1])) != 0 &&
                 std::isxdigit(static_cast<unsigned char>(rest[2])) != 0) {
        key += static_cast<char>(std::stoi(std::string(rest.substr(1)), nullptr, 16));
        i += 2;
      } else {
        key += reference[i];
      }
    }
    if (at->is_object()) {
      const auto found = at->find(key);
      if (found == at->end()) return nullptr;
      at = &*found;
    } else if (at->is_array()) {
      if (key.empty() || key.size() > 6 || key.find_first_not_of("0123456789") != std::string::npos)
        return nullptr;
      const auto index = static_cast<size_t>(std::stoul(key));
      if (index >= at->size()) return nullptr;
      at = &(*at)[index];
    } else {
      return nullptr;
    }
    begin = end;
  }
  return at;
}

const Json& SchemaMerge::Resolved(const Json& schema) const {
  const Json* at = &schema;
  for (int i = 0; i < 16 && at->is_object() && at->contains("$ref") && (*at)["$ref"].is_string() &&
                  !HasAssertions(*at, {"$ref"});
       ++i) {
    const Json* target = Find((*at)["$ref"].get_ref<const std::string&>());
    if (target == nullptr) break;
    at = target;
  }
  return *at;
}

Result<Json> SchemaMerge::Both(const Json& first, const Json& second, int depth) const {
  if (depth > kMaxMergeDepth) {
    return Fail(ErrorKind::kInvalid, "schema_too_complex",
                "schemas that refer to themselves cannot be merged with others");
  }
  const Json& a = Resolved(first);
  const Json& b = Resolved(second);
  size_t work = ValuesIn(a) + ValuesIn(b) + SizeOf(a, "properties") * SizeOf(b, "properties");
  for (const char* list : {"type", "required", "enum"}) work += SizeOf(a, list) * SizeOf(b, list);
  if (!Charge(work)) {
    return Fail(ErrorKind::kInvalid, "schema_too_complex",
                "its alternatives and parts are too many to be merged; write them out, or leave some out");
  }
  if (a.is_boolean()) return a.get<bool>() ? b : a;
  if (b.is_boolean()) return b.get<bool>() ? a : b;
  if (!a.is_object() || !b.is_object()) {
    return Fail(ErrorKind::kInvalid, "invalid_schema", "a schema must be an object, true or false");
  }
  for (const Json* side : {&a, &b}) {
    if (!side->contains("$ref")) continue;
    const Json& reference = (*side)["$ref"];
    const Json* target = reference.is_string() ? Find(reference.get_ref<const std::string&>()) : nullptr;
    if (target == nullptr)
      return Fail(ErrorKind::kInvalid, "unsupported_schema", "\"$ref\" leads nowhere in this schema");
    Json rest = *side;
    rest.erase("$ref");
    TP_ASSIGN(const Json whole, Both(*target, rest, depth + 1));
    return side == &a ? Both(whole, b, depth + 1) : Both(a, whole, depth + 1);
  }
  Json merged = a;
  for (const auto& [key, value] : b.items()) {
    if (!merged.contains(key)) {
      merged[key] = value;
      continue;
    }
    Json& mine = merged[key];
    if (mine == value || IsAnnotation(key)) continue;
    const bool numbers = mine.is_number() && value.is_number();
    if (key == "type") {
      mine = BothTypes(mine, value);
    } else if (key == "required" && mine.is_array() && value.is_array()) {
      for (const Json& name : value) {
        if (std::find(mine.begin(), mine.end(), name) == mine.end()) mine.push_back(name);
      }
    } else if (numbers && (key.starts_with("min") || key == "exclusiveMinimum")) {
      if (value.get<double>() > mine.get<double>()) mine = value;
    } else if (numbers && (key.starts_with("max") || key == "exclusiveMaximum")) {
      if (value.get<double>() < mine.get<double>()) mine = value;
    } else if (key == "enum" && mine.is_array() && value.is_array()) {
      Json both = Json::array();
      for (const Json& item : mine) {
        if (std::find(value.begin(), value.end(), item) != value.end()) both.push_back(item);
      }
      mine = std::move(both);
    } else if (key == "const") {
      return Json(false);
    } else if (key == "allOf" && mine.is_array() && value.is_array()) {
      for (const Json& part : value) mine.push_back(part);
    } else if (key == "anyOf" && mine.is_array() && value.is_array()) {
      if (mine.size() * value.size() > kMaxProduct) return CannotMerge(key);
      Json product = Json::array();
      for (const Json& x : mine) {
        for (const Json& y : value) product.push_back({{"allOf", Json::array({x, y})}});
      }
      mine = std::move(product);
    } else if (key == "uniqueItems") {
      mine = true;
    } else if (key != "properties" && key != "additionalProperties" && key != "items" &&
               key != "prefixItems") {
      return CannotMerge(key);
    }
  }
  TP_TRY(Arrays(a, b, merged, depth));
  return Objects(a, b, std::move(merged), depth);
}

// Each item must satisfy what either side says of its place. (A list as `items` is draft 7's prefixItems.)
Status SchemaMerge::Arrays(const Json& a, const Json& b, Json& merged, int depth) const {
  if (!merged.contains("items") && !merged.contains("prefixItems")) return {};
  struct Side {
    Json prefix = Json::array(), rest = true;
  };
  const auto side_of = [](const Json& schema) {
    Side side;
    const Json items = schema.value("items", Json(true));
    if (items.is_array()) {
      side.prefix = items;
      side.rest = schema.value("additionalItems", Json(true));
    } else {
      side.prefix = schema.value("prefixItems", Json::array());
      side.rest = items;
    }
    return side;
  };
  const Side of_a = side_of(a), of_b = side_of(b);
  if (!of_a.prefix.is_array() || !of_b.prefix.is_array()) return CannotMerge("prefixItems");
  Json prefix = Json::array();
  for (size_t i = 0; i < std::max(of_a.prefix.size(), of_b.prefix.size()); ++i) {
    TP_ASSIGN(Json both, Both(i < of_a.prefix.size() ? of_a.prefix[i] : of_a.rest,
                              i < of_b.prefix.size() ? of_b.prefix[i] : of_b.rest, depth + 1));
    prefix.push_back(std::move(both));
  }
  TP_ASSIGN(merged["items"], Both(of_a.rest, of_b.rest, depth + 1));
  merged.erase("additionalItems");
  if (!prefix.empty()) merged["prefixItems"] = std::move(prefix);
  return {};
}

// Each property must satisfy what either side says of it: its own schema, or that of additional properties.
Result<Json> SchemaMerge::Objects(const Json& a, const Json& b, Json merged, int depth) const {
  const auto properties_of = [](const Json& schema) {
    const auto found = schema.find("properties");
    return found != schema.end() && found->is_object() ? *found : Json::object();
  };
  const auto additional_of = [](const Json& schema) {
    const auto found = schema.find("additionalProperties");
    return found != schema.end() && !found->is_null() ? *found : Json();
  };
  const Json of_a = properties_of(a), of_b = properties_of(b);
  const Json extra_a = additional_of(a), extra_b = additional_of(b);
  if (of_a.empty() && of_b.empty() && extra_a.is_null() && extra_b.is_null()) return merged;
  Json properties = Json::object();
  for (const Json* side : {&of_a, &of_b}) {
    for (const auto& [name, schema] : side->items()) {
      if (properties.contains(name)) continue;
      const Json said_a = of_a.contains(name) ? of_a[name] : extra_a.is_null() ? Json(true) : extra_a;
      const Json said_b = of_b.contains(name) ? of_b[name] : extra_b.is_null() ? Json(true) : extra_b;
      TP_ASSIGN(properties[name], Both(said_a, said_b, depth + 1));
    }
  }
  if (!properties.empty()) merged["properties"] = std::move(properties);
  if (!extra_a.is_null() || !extra_b.is_null()) {
    TP_ASSIGN(merged["additionalProperties"], Both(extra_a.is_null() ? Json(true) : extra_a,
                                                   extra_b.is_null() ? Json(true) : extra_b, depth + 1));
  }
  return merged;
}

bool SchemaMerge::Apart(const Json& first, const Json& second, int depth) const {
  if (depth > 8) return false;
  const Json& made = Resolved(first);
  const Json& other = Resolved(second);
  const size_t properties = std::max<size_t>(1, SizeOf(made, "properties"));
  if (!Charge(1 + SizeOf(made, "enum") * std::max<size_t>(1, SizeOf(other, "enum")) + SizeOf(other, "enum") +
              properties * (SizeOf(made, "required") + SizeOf(other, "properties") + 1) +
              SizeOf(other, "required") * (properties + SizeOf(made, "required"))))
    return false;
  if (made == false || other == false) return true;
  if (!made.is_object() || !other.is_object()) return false;
  // A branch of branches: all of them.
  for (const char* word : {"anyOf", "oneOf"}) {
    if (made.contains(word) && made[word].is_array()) {
      return std::all_of(made[word].begin(), made[word].end(),
                         [&](const Json& branch) { return Apart(branch, other, depth + 1); });
    }
    if (other.contains(word) && other[word].is_array() && !HasAssertions(other, {word})) {
      return std::all_of(other[word].begin(), other[word].end(),
                         [&](const Json& branch) { return Apart(made, branch, depth + 1); });
    }
  }
  const auto values = ValuesOf(made), others = ValuesOf(other);
  if (values && others) {
    return std::none_of(values->begin(), values->end(), [&](const Json& v) {
      return std::find(others->begin(), others->end(), v) != others->end();
    });
  }
  const std::set<std::string> types = TypesOf(made), other_types = TypesOf(other);
  if (!types.empty() && !other_types.empty() &&
      std::none_of(types.begin(), types.end(), [&](const std::string& type) {
        // 1.0 is an integer too, so a number may be one.
        return other_types.contains(type) || (type == "number" && other_types.contains("integer"));
      })) {
    return true;
  }
  // Objects only, from here on.
  if (types != std::set<std::string>{"object"}) return false;
  const Json none = Json::object();
  const Json& mine =
      made.contains("properties") && made["properties"].is_object() ? made["properties"] : none;
  const Json& theirs =
      other.contains("properties") && other["properties"].is_object() ? other["properties"] : none;
  for (const auto& [name, schema] : mine.items()) {
    if (!Requires(made, name)) continue;
    if (theirs.contains(name) && Apart(schema, theirs[name], depth + 1)) return true;
    if (!theirs.contains(name) && other.value("additionalProperties", Json()) == false) return true;
  }
  const bool closed = made.value("additionalProperties", Json(mine.empty())) == false;
  if (!closed || !other.contains("required") || !other["required"].is_array()) return false;
  return std::any_of(other["required"].begin(), other["required"].end(), [&](const Json& name) {
    return name.is_string() && !mine.contains(name.get_ref<const std::string&>()) &&
           !Requires(made, name.get<std::string>());
  });
}

Fits SchemaMerge::ValueFits(const Json& value, const Json& schema) const {
  if (!Charge(schema.size())) return Fits::kUnknown;
  for (const auto& [key, said] : schema.items()) {
    if (IsAnnotation(key) || key == "enum" || key == "const" || key == "type") continue;
    bool fits = true;
    if (value.is_string() && (key == "minLength" || key == "maxLength") && said.is_number()) {
      const auto size = static_cast<double>(Characters(value.get_ref<const std::string&>()));
      fits = key == "minLength" ? size >= said.get<double>() : size <= said.get<double>();
    } else if (value.is_number() && said.is_number() && key != "multipleOf" &&
               (key.starts_with("min") || key.starts_with("max") || key.starts_with("exclusive"))) {
      const double number = value.get<double>(), bound = said.get<double>();
      if (key == "minimum") fits = number >= bound;
      if (key == "maximum") fits = number <= bound;
      if (key == "exclusiveMinimum") fits = number > bound;
      if (key == "exclusiveMaximum") fits = number < bound;
    } else {
      const auto among = [&](std::initializer_list<std::string_view> words) {
        return std::find(words.begin(), words.end(), key) != words.end();
      };
      const bool of_strings = among({"minLength", "maxLength", "pattern", "format"});
      const bool of_numbers =
          among({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"});
      const bool of_objects =
          among({"properties", "required", "additionalProperties", "minProperties", "maxProperties"});
      const bool of_arrays = among({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"});
      const bool about_others = (of_strings && !value.is_string()) || (of_numbers && !value.is_number()) ||
                                (of_objects && !value.is_object()) || (of_arrays && !value.is_array());
      if (!about_others) return Fits::kUnknown;
    }
    if (!fits) return Fits::kNo;
  }
  return Fits::kYes;
}

}  // namespace tidepool::grammar
