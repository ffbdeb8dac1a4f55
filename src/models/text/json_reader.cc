#include "models/text/json_reader.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::text {

tl::unexpected<Error> BadJson(std::string_view path, std::string_view what) {
  return Fail(ErrorKind::kCorrupt, "bad_tokenizer", fmt::format("tokenizer.json: {} {}", path, what),
              std::string(path));
}

tl::unexpected<Error> UnsupportedJson(std::string_view path, std::string_view what) {
  return Fail(ErrorKind::kInvalid, "unsupported_tokenizer",
              fmt::format("tokenizer.json: {} {}, which Tidepool does not support", path, what),
              std::string(path));
}

Result<JsonObject> JsonObject::From(simdjson::dom::element element, std::string path) {
  JsonObject result;
  if (element.get(result.object_) != simdjson::SUCCESS) return BadJson(path, "is not an object");
  result.path_ = std::move(path);
  return result;
}

std::optional<simdjson::dom::element> JsonObject::Get(std::string_view key) const {
  simdjson::dom::element element;
  if (object_.at_key(key).get(element) != simdjson::SUCCESS || element.is_null()) return std::nullopt;
  return element;
}

Result<std::string_view> JsonObject::String(std::string_view key,
                                            std::optional<std::string_view> fallback) const {
  const auto element = Get(key);
  if (!element && fallback) return *fallback;
  std::string_view value;
  if (!element || element->get(value) != simdjson::SUCCESS) return BadJson(PathOf(key), "is not a string");
  return value;
}

Result<bool> JsonObject::Bool(std::string_view key, std::optional<bool> fallback) const {
  const auto element = Get(key);
  if (!element && fallback) return *fallback;
  bool value = false;
  if (!element || element->get(value) != simdjson::SUCCESS)
    return BadJson(PathOf(key), "is not true or false");
  return value;
}

Result<int64_t> JsonObject::Int(std::string_view key, std::optional<int64_t> fallback) const {
  const auto element = Get(key);
  if (!element && fallback) return *fallback;
  int64_t value = 0;
  if (!element || element->get(value) != simdjson::SUCCESS) return BadJson(PathOf(key), "is not an integer");
  return value;
}

Result<JsonObject> JsonObject::Object(std::string_view key) const {
  const auto element = Get(key);
  if (!element) return BadJson(PathOf(key), "is missing");
  return From(*element, PathOf(key));
}

Result<std::vector<simdjson::dom::element>> JsonObject::Array(std::string_view key) const {
  const auto element = Get(key);
  simdjson::dom::array array;
  if (!element || element->get(array) != simdjson::SUCCESS) return BadJson(PathOf(key), "is not an array");
  return std::vector<simdjson::dom::element>(array.begin(), array.end());
}

Status JsonObject::Only(std::initializer_list<std::string_view> known) const {
  for (const auto member : object_) {
    if (member.key == "type" || std::find(known.begin(), known.end(), member.key) != known.end()) continue;
    return UnsupportedJson(PathOf(member.key), "is a setting");
  }
  return {};
}

}  // namespace tidepool::text
