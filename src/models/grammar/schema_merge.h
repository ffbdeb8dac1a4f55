// Two JSON schemas at once, and whether two exclude each other: for allOf, anyOf beside other keywords, and
// oneOf. One object for one schema: what all its merges and comparisons may cost together is bounded.
//
// Threads: one.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::grammar {

enum class Fits : uint8_t { kYes, kNo, kUnknown };

// Does the schema say anything but annotations and the named words?
bool HasAssertions(const nlohmann::ordered_json& schema, std::initializer_list<std::string_view> but);
// "string", "integer" (for numbers without a fraction), ...
std::string TypeOf(const nlohmann::ordered_json& value);

class SchemaMerge {
 public:
  explicit SchemaMerge(const nlohmann::ordered_json& root) : root_(root) {}

  // What "#", "#/..." refers to; nullptr for anything else.
  const nlohmann::ordered_json* Find(const std::string& reference) const;
  // A schema that is satisfied by what satisfies both. Errors say which keyword cannot be merged.
  Result<nlohmann::ordered_json> Both(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b,
                                      int depth) const;
  // No text that is generated for `made` (properties that it does not name are left out) satisfies `other`.
  bool Apart(const nlohmann::ordered_json& made, const nlohmann::ordered_json& other, int depth = 0) const;
  // True once too much was copied and compared: what was answered since does not count. A hostile schema can
  // ask for the product of its lists many times over.
  bool exhausted() const { return work_ > kMaxWork; }
  // A value of an enum against the keywords beside it.
  Fits ValueFits(const nlohmann::ordered_json& value, const nlohmann::ordered_json& schema) const;

 private:
  const nlohmann::ordered_json& Resolved(const nlohmann::ordered_json& schema) const;
  Status Arrays(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b,
                nlohmann::ordered_json& merged, int depth) const;
  Result<nlohmann::ordered_json> Objects(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b,
                                         nlohmann::ordered_json merged, int depth) const;

  static constexpr size_t kMaxWork = 5'000'000;  // values copied, pairs compared: some 0.5 s
  // Adds to the work done; false: exhausted.
  bool Charge(size_t work) const {
    work_ = std::min(work_ + std::min(work, kMaxWork + 1), 2 * kMaxWork);
    return !exhausted();
  }

  const nlohmann::ordered_json& root_;
  mutable size_t work_ = 0;
};

}  // namespace tidepool::grammar
