#include "models/toolcalls/property_types.h"

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

#include "models/toolcalls/json_text.h"

namespace tidepool::toolcalls {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxTypeDepth = 8;     // of references and choices
constexpr size_t kMaxChoices = 256;  // of one list

void AddNamed(std::string_view type, PropertyTypes& types) {
  types.string |= type == "string";
  types.number |= type == "number";
  types.integer |= type == "integer";
  types.boolean |= type == "boolean";
  types.null |= type == "null";
  types.object |= type == "object";
  types.array |= type == "array";
}

void AddValue(const Json& value, PropertyTypes& types) {
  types.string |= value.is_string();
  types.number |= value.is_number_float();
  types.integer |= value.is_number_integer();
  types.boolean |= value.is_boolean();
  types.null |= value.is_null();
  types.object |= value.is_object();
  types.array |= value.is_array();
}

const Json* Target(const Json& reference, const Json& root) {
  if (!reference.is_string()) return nullptr;
  const auto& text = reference.get_ref<const std::string&>();
  if (!text.starts_with("#/")) return nullptr;
  const Json* at = &root;
  for (size_t begin = 2; begin <= text.size();) {
    const size_t end = std::min(text.find('/', begin), text.size());
    if (!at->is_object()) return nullptr;
    const auto found = at->find(text.substr(begin, end - begin));
    if (found == at->end()) return nullptr;
    at = &*found;
    begin = end + 1;
  }
  return at;
}

void Add(const Json& schema, const Json& root, int depth, PropertyTypes& types) {
  if (!schema.is_object() || depth > kMaxTypeDepth) return;
  const auto find = [&](const char* key) {
    const auto found = schema.find(key);
    return found == schema.end() ? nullptr : &*found;
  };
  if (const Json* type = find("type")) {
    if (type->is_string()) AddNamed(type->get_ref<const std::string&>(), types);
    if (type->is_array()) {
      for (const Json& one : *type) {
        if (one.is_string()) AddNamed(one.get_ref<const std::string&>(), types);
      }
    }
    return;
  }
  if (const Json* only = find("const")) return AddValue(*only, types);
  if (const Json* values = find("enum"); values != nullptr && values->is_array()) {
    for (const Json& value : *values) AddValue(value, types);
    return;
  }
  if (const Json* reference = find("$ref")) {
    if (const Json* target = Target(*reference, root)) Add(*target, root, depth + 1, types);
  }
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    const Json* options = find(key);
    if (options == nullptr || !options->is_array() || options->size() > kMaxChoices) continue;
    for (const Json& option : *options) Add(option, root, depth + 1, types);
  }
}

}  // namespace

PropertyTypes TypesOf(const Json& property, const Json& root) {
  PropertyTypes types;
  Add(property, root, 0, types);
  return types;
}

bool IsAnnotation(std::string_view word) {
  static constexpr std::string_view kWords[] = {
      "title",     "description", "default", "examples", "example", "deprecated", "readOnly",
      "writeOnly", "$comment",    "$id",     "$schema",  "$anchor", "$defs",      "definitions"};
  return std::find(std::begin(kWords), std::end(kWords), word) != std::end(kWords);
}

const Json& Referred(const Json& property, const Json& root) {
  const Json* at = &property;
  for (int depth = 0; depth < kMaxTypeDepth && at->is_object(); ++depth) {
    const Json* next = nullptr;
    for (const auto& [word, value] : at->items()) {
      if (IsAnnotation(word)) continue;
      if (next != nullptr) return *at;
      if (word == "$ref") next = Target(value, root);
      if (word == "allOf" && value.is_array() && value.size() == 1) next = &value[0];
      if (next == nullptr) return *at;
    }
    if (next == nullptr) return *at;
    at = next;
  }
  return *at;
}

std::string ValueAsJson(const std::string& text, const PropertyTypes& types) {
  const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  const std::string trimmed = text.substr(begin, text.find_last_not_of(" \t\r\n") + 1 - begin);
  std::string lower = trimmed;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (types.null && (lower == "null" || lower == "none")) return "null";
  if (types.boolean && (lower == "true" || lower == "false")) return lower;
  const auto value = Json::parse(trimmed, nullptr, /*allow_exceptions=*/false);
  const bool fits = (types.number && value.is_number()) || (types.integer && value.is_number_integer()) ||
                    (types.object && value.is_object()) || (types.array && value.is_array()) ||
                    (types.string && value.is_string());
  return fits ? trimmed : Quoted(text);
}

}  // namespace tidepool::toolcalls
