// The JSON that schemas are made of: white space, strings, numbers in ranges, any value.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/grammar/expression.h"

namespace tidepool::grammar {

// A decimal number without exponent.
struct Decimal {
  bool negative = false;
  std::string whole = "0";  // without leading zeros
  std::string fraction{};   // without trailing zeros
  static std::optional<Decimal> From(const nlohmann::ordered_json& number);
  bool zero() const { return whole == "0" && fraction.empty(); }
};

struct NumberBounds {
  std::optional<Decimal> least, most;
  bool above = false, below = false;  // the bound itself is out
};

class JsonValues {
 public:
  explicit JsonValues(Expressions& out) : out_(out) {}

  ExprId Space();  // between tokens: nothing, a space, or line breaks and indentation
  ExprId String(int32_t min, int32_t max);                 // with quotes; max may be kUnbounded
  ExprId Key(const std::vector<std::string>& other_than);  // a string, none of these
  ExprId Integer(const NumberBounds& bounds);
  ExprId Number(const NumberBounds& bounds);
  ExprId IntegerMultiple(int32_t of);
  ExprId Literal(const nlohmann::ordered_json& value);  // as one spelling
  ExprId Any();
  ExprId AnyObject();
  ExprId AnyArray();

 private:
  ExprId Digits(int32_t min, int32_t max);
  ExprId Bounded(const NumberBounds& bounds, bool fractions);
  ExprId Magnitudes(const Decimal& low, bool above, const std::optional<Decimal>& high, bool below,
                    bool fractions);
  ExprId WholeBetween(const std::string& low, const std::string& high);
  ExprId SameLength(std::string_view low, std::string_view high);
  ExprId FractionAtLeast(std::string_view digits, bool above, int32_t room, bool first);
  ExprId FractionAtMost(std::string_view digits, bool below, int32_t room, bool first);
  ExprId FractionBetween(std::string_view low, bool above, std::string_view high, bool below, int32_t room,
                         bool first);
  ExprId KeyFrom(std::span<const std::u32string> keys, size_t at);

  Expressions& out_;
  std::optional<RuleId> space_, string_, any_, object_, array_;
};

}  // namespace tidepool::grammar
