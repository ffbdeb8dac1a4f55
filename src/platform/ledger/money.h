// Money: exact decimals in one currency. No floating point.
//
// Rows keep whole billionths (10^-9) of the currency in 64 bits: up to 9,223,372,036.85 a row. Sums are
// 128 bits wide, so that no bill overflows (10^20 rows of the largest amount).
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::platform {

__extension__ using Int128 = __int128;

inline constexpr int64_t kNanosPerUnit = 1'000'000'000;

struct Money {
  Int128 nanos = 0;

  static constexpr Money FromNanos(Int128 value) { return Money{value}; }
  // "12", "-0.000000001": an optional minus, digits, at most 9 decimals, no exponent; at most 10^10 - 1
  // units. kInvalid names the text.
  static Result<Money> Parse(std::string_view text);
  std::string ToString() const;  // shortest exact decimal, at least two decimals: "0.00", "1.25", "0.000002"

  bool FitsRow() const { return nanos <= INT64_MAX && nanos >= INT64_MIN; }
  Money operator+(Money other) const { return {nanos + other.nanos}; }
  Money operator-(Money other) const { return {nanos - other.nanos}; }
  Money& operator+=(Money other) {
    nanos += other.nanos;
    return *this;
  }
  friend constexpr bool operator==(Money, Money) = default;
  friend constexpr auto operator<=>(Money a, Money b) { return a.nanos <=> b.nanos; }
};

// By currency: amounts of different ones are never added. What was used before there was a price book came to
// nothing in no currency, and is left out.
using Amounts = std::map<std::string, Money>;

bool IsCurrency(std::string_view text);  // three capitals, as ISO 4217 has them: "EUR"

// value * numerator / denominator, to the nearest, halves to even (as banks and IEEE 754 do). All arguments
// not negative, denominator > 0, |value * numerator| < 2^127.
Int128 MulDivHalfEven(Int128 value, Int128 numerator, Int128 denominator);

// A factor such as a discount or a batch price: 0 to 10 with at most 6 decimals, in millionths. kInvalid.
inline constexpr int64_t kMaxFactor = 10'000'000;
inline constexpr int64_t kFactorOne = 1'000'000;
Result<int64_t> ParseFactor(std::string_view text);
std::string FactorText(int64_t millionths);

}  // namespace tidepool::platform
