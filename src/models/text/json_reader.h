// Reading tokenizer.json: every member is asked for by name and type, and what is left over is an error, so
// that no setting of a file is ever ignored by accident. Errors name the path
// ("pre_tokenizer.pretokenizers[1].behavior").
#pragma once

#include <simdjson.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::text {

tl::unexpected<Error> BadJson(std::string_view path, std::string_view what);
tl::unexpected<Error> UnsupportedJson(std::string_view path, std::string_view what);

// An object and its path. Views live as long as the parser's document.
class JsonObject {
 public:
  static Result<JsonObject> From(simdjson::dom::element element, std::string path);

  const std::string& path() const { return path_; }
  std::string PathOf(std::string_view key) const {
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  }
  // Absent and null are the same.
  std::optional<simdjson::dom::element> Get(std::string_view key) const;

  // With a default: absent or null gives it; another type is an error.
  Result<std::string_view> String(std::string_view key,
                                  std::optional<std::string_view> fallback = std::nullopt) const;
  Result<bool> Bool(std::string_view key, std::optional<bool> fallback = std::nullopt) const;
  Result<int64_t> Int(std::string_view key, std::optional<int64_t> fallback = std::nullopt) const;
  Result<JsonObject> Object(std::string_view key) const;
  Result<std::vector<simdjson::dom::element>> Array(std::string_view key) const;
  // "type" of a component.
  Result<std::string_view> Type() const { return String("type"); }
  // Fails if there is a member that is not in `known` ("type" always is).
  Status Only(std::initializer_list<std::string_view> known) const;

  simdjson::dom::object members() const { return object_; }

 private:
  simdjson::dom::object object_;
  std::string path_;
};

}  // namespace tidepool::text
