#include "platform/ledger/money.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace tidepool::platform {
namespace {

// Digits with at most `decimals` after the point, as a whole number of 10^-decimals; at most `whole_digits`
// before it. -1: not that.
Int128 ParseDecimal(std::string_view text, int whole_digits, int decimals) {
  Int128 value = 0;
  int before = 0, after = -1;
  for (const char c : text) {
    if (c == '.' && after < 0 && before > 0) {
      after = 0;
      continue;
    }
    if (c < '0' || c > '9') return -1;
    if (after >= 0 ? ++after > decimals : ++before > whole_digits) return -1;
    value = value * 10 + (c - '0');
  }
  if (before == 0 || after == 0) return -1;
  for (int i = after < 0 ? 0 : after; i < decimals; ++i) value *= 10;
  return value;
}

std::string DecimalText(Int128 value, int decimals, int least_decimals) {
  const bool negative = value < 0;
  if (negative) value = -value;
  Int128 scale = 1;
  for (int i = 0; i < decimals; ++i) scale *= 10;
  std::string digits;
  for (Int128 whole = value / scale; whole > 0 || digits.empty(); whole /= 10) {
    digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(whole % 10)));
  }
  std::string fraction;
  Int128 rest = value % scale;
  for (int i = 0; i < decimals; ++i) {
    scale /= 10;
    fraction.push_back(static_cast<char>('0' + static_cast<int>(rest / scale)));
    rest %= scale;
  }
  while (std::ssize(fraction) > least_decimals && fraction.back() == '0') fraction.pop_back();
  std::string text = (negative ? "-" : "") + digits;
  if (!fraction.empty()) text += "." + fraction;
  return text;
}

}  // namespace

Result<Money> Money::Parse(std::string_view text) {
  const bool negative = !text.empty() && text.front() == '-';
  const Int128 value = ParseDecimal(text.substr(negative ? 1 : 0), 10, 9);
  if (value < 0) {
    return Fail(ErrorKind::kInvalid, "bad_amount",
                fmt::format("\"{}\" is no amount; write digits with at most 9 decimals, below 10^10, such as "
                            "\"12.50\"",
                            text.substr(0, 60)));
  }
  return Money{negative ? -value : value};
}

std::string Money::ToString() const { return DecimalText(nanos, 9, 2); }

bool IsCurrency(std::string_view text) {
  return text.size() == 3 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

Int128 MulDivHalfEven(Int128 value, Int128 numerator, Int128 denominator) {
  CHECK(value >= 0 && numerator >= 0 && denominator > 0);
  const Int128 product = value * numerator;
  Int128 quotient = product / denominator;
  const Int128 twice_rest = (product % denominator) * 2;
  if (twice_rest > denominator || (twice_rest == denominator && quotient % 2 == 1)) ++quotient;
  return quotient;
}

Result<int64_t> ParseFactor(std::string_view text) {
  const Int128 value = ParseDecimal(text, 4, 6);
  if (value < 0 || value > kMaxFactor) {
    return Fail(ErrorKind::kInvalid, "bad_factor",
                fmt::format("\"{}\" is no factor; write 0 to 10 with at most 6 decimals, such as \"0.5\"",
                            text.substr(0, 60)));
  }
  return static_cast<int64_t>(value);
}

std::string FactorText(int64_t millionths) { return DecimalText(millionths, 6, 0); }

}  // namespace tidepool::platform
