#include "models/grammar/json_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "models/grammar/regex.h"
#include "models/text/utf8.h"

namespace tidepool::grammar {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kMaxIndentation = 40;
constexpr int32_t kMaxWholeDigits = 16;
constexpr int32_t kMaxFractionDigits = 16;
// Readers round to doubles: beside a bound there must be room, or 0.1000...01 is no more than 0.1.
constexpr int32_t kBoundedFractionDigits = 6;
constexpr int32_t kMaxBoundedDigits = 15;
constexpr size_t kMaxKey = 64;  // characters of a key that no property names, beyond what it shares with one

Range One(char c) { return {static_cast<unsigned char>(c), static_cast<unsigned char>(c)}; }
Range DigitRange(char first, char last) {
  return {static_cast<unsigned char>(first), static_cast<unsigned char>(last)};
}

bool LessWhole(const std::string& a, const std::string& b) {
  return a.size() != b.size() ? a.size() < b.size() : a < b;
}

std::string PlusOne(std::string digits) {
  for (size_t i = digits.size(); i-- > 0;) {
    if (digits[i] != '9') {
      ++digits[i];
      return digits;
    }
    digits[i] = '0';
  }
  return "1" + digits;
}

std::string MinusOne(std::string digits) {  // of more than zero
  for (size_t i = digits.size(); i-- > 0;) {
    if (digits[i] != '0') {
      --digits[i];
      break;
    }
    digits[i] = '9';
  }
  const size_t first = digits.find_first_not_of('0');
  return first == std::string::npos ? "0" : digits.substr(first);
}

// -1, 0, 1
int Compare(const Decimal& a, const Decimal& b) {  // magnitudes
  if (a.whole != b.whole) return LessWhole(a.whole, b.whole) ? -1 : 1;
  return a.fraction == b.fraction ? 0 : a.fraction < b.fraction ? -1 : 1;
}

}  // namespace

std::optional<Decimal> Decimal::From(const Json& number) {
  std::string text;
  if (number.is_number_float()) {
    const double value = number.get<double>();
    if (!std::isfinite(value) || std::fabs(value) >= 1e15) return std::nullopt;
    text = fmt::format("{}", value);
    if (text.find('e') != std::string::npos) {
      if (std::fabs(value) < 1e-15) return std::nullopt;
      text = fmt::format("{:.15f}", value);
    }
  } else if (number.is_number()) {
    text = number.dump();
  } else {
    return std::nullopt;
  }
  Decimal out;
  out.negative = text.starts_with('-');
  if (out.negative) text.erase(0, 1);
  const size_t point = text.find('.');
  out.whole = text.substr(0, point);
  if (point != std::string::npos) out.fraction = text.substr(point + 1);
  out.fraction.erase(out.fraction.find_last_not_of('0') + 1);
  if (out.whole.size() + out.fraction.size() > 20) return std::nullopt;
  if (out.zero()) out.negative = false;
  return out;
}

ExprId JsonValues::Space() {
  if (!space_) {
    space_ = out_.AddRule("space");
    const ExprId blank = out_.OneOf({One(' '), One('\t')});
    const ExprId line =
        out_.Sequence({out_.Repeat(out_.Bytes("\n"), 1, 2), out_.Repeat(blank, 0, kMaxIndentation)});
    out_.Define(*space_, out_.Choice({out_.Empty(), out_.Bytes(" "), line}));
  }
  return out_.Rule(*space_);
}

ExprId JsonValues::String(int32_t min, int32_t max) {
  const auto make = [&] {
    const ExprId quote = out_.Bytes("\"");
    return out_.Sequence(
        {quote, out_.Repeat(JsonStringCharacter(out_), min, max, /*json_string=*/true), quote});
  };
  if (min > 0 || max != kUnbounded) return max == 0 ? out_.Bytes("\"\"") : make();
  if (!string_) {
    string_ = out_.AddRule("string");
    out_.Define(*string_, make());
  }
  return out_.Rule(*string_);
}

// Keys of plain characters, so that no spelling of a name that is excluded slips through.
ExprId JsonValues::Key(const std::vector<std::string>& other_than) {
  std::vector<std::u32string> keys;
  for (const std::string& key : other_than) {
    std::u32string wide;
    for (size_t at = 0; at < key.size();) {
      const text::Character character = text::ReadCharacter(key, at);
      wide += static_cast<char32_t>(character.code);
      at += character.size;
    }
    keys.push_back(std::move(wide));
  }
  std::sort(keys.begin(), keys.end());
  return out_.Sequence({out_.Bytes("\""), KeyFrom(keys, 0)});
}

// What may follow the first `at` characters, which all `keys` share; the closing quote included. A key that
// goes along with others for kMaxKey characters ends there: names may be long and many.
ExprId JsonValues::KeyFrom(std::span<const std::u32string> keys, size_t at) {
  const std::vector<Range> plain = {{' ', '!'}, {'#', '['}, {']', 0x10FFFF}};
  const ExprId quote = out_.Bytes("\"");
  if (keys.empty())
    return out_.Sequence({out_.Repeat(out_.OneOf(plain), 0, static_cast<int32_t>(kMaxKey)), quote});
  std::vector<ExprId> choices;
  if (keys.front().size() != at) choices.push_back(quote);
  std::vector<Range> used = {{0, 0x1F}, One('"'), One('\\')};
  size_t begin = 0;
  while (begin < keys.size() && keys[begin].size() == at) ++begin;
  while (begin < keys.size()) {
    const char32_t next = keys[begin][at];
    size_t end = begin;
    while (end < keys.size() && keys[end][at] == next) ++end;
    used.push_back({next, next});
    if (next >= 0x20 && next != '"' && next != '\\' && at < kMaxKey && !out_.overflow()) {
      choices.push_back(
          out_.Sequence({out_.OneOf({{next, next}}), KeyFrom(keys.subspan(begin, end - begin), at + 1)}));
    }
    begin = end;
  }
  choices.push_back(out_.Sequence({out_.OneOf(Complement(used)), KeyFrom({}, 0)}));
  return out_.Choice(std::move(choices));
}

ExprId JsonValues::Digits(int32_t min, int32_t max) {
  return out_.Repeat(out_.OneOf({DigitRange('0', '9')}), min, max);
}

// Numbers of as many digits as both bounds have, leading zeros included, between them.
ExprId JsonValues::SameLength(std::string_view low, std::string_view high) {
  if (low.empty()) return out_.Empty();
  const std::string zeros(low.size(), '0'), nines(low.size(), '9');
  if (low == zeros && high == nines)
    return Digits(static_cast<int32_t>(low.size()), static_cast<int32_t>(low.size()));
  const auto rest = [](std::string_view text) { return text.substr(1); };
  if (low[0] == high[0]) {
    return out_.Sequence({out_.Bytes(low.substr(0, 1)), SameLength(rest(low), rest(high))});
  }
  const auto count = static_cast<int32_t>(low.size()) - 1;
  std::vector<ExprId> choices;
  choices.push_back(out_.Sequence({out_.Bytes(low.substr(0, 1)), SameLength(rest(low), rest(nines))}));
  if (low[0] + 1 <= high[0] - 1) {
    choices.push_back(out_.Sequence(
        {out_.OneOf({DigitRange(static_cast<char>(low[0] + 1), static_cast<char>(high[0] - 1))}),
         Digits(count, count)}));
  }
  choices.push_back(out_.Sequence({out_.Bytes(high.substr(0, 1)), SameLength(rest(zeros), rest(high))}));
  return out_.Choice(std::move(choices));
}

ExprId JsonValues::WholeBetween(const std::string& low, const std::string& high) {
  if (LessWhole(high, low)) return out_.Never();
  std::vector<ExprId> choices;
  for (size_t size = low.size(); size <= high.size(); ++size) {
    const std::string least = size == low.size() ? low : "1" + std::string(size - 1, '0');
    const std::string most = size == high.size() ? high : std::string(size, '9');
    choices.push_back(SameLength(least, most));
  }
  return out_.Choice(std::move(choices));
}

// The digits after a point, at least one with `first`, that say at least (above: more than) 0.digits.
ExprId JsonValues::FractionAtLeast(std::string_view digits, bool above, int32_t room, bool first) {
  if (digits.empty() && !above) return Digits(first ? 1 : 0, room);
  if (room <= 0) return out_.Never();
  if (digits.empty()) {
    return out_.Sequence(
        {out_.Repeat(out_.Bytes("0"), 0, room - 1), out_.OneOf({DigitRange('1', '9')}), Digits(0, 2)});
  }
  std::vector<ExprId> choices;
  if (digits[0] < '9') {
    choices.push_back(out_.Sequence(
        {out_.OneOf({DigitRange(static_cast<char>(digits[0] + 1), '9')}), Digits(0, room - 1)}));
  }
  choices.push_back(out_.Sequence(
      {out_.Bytes(digits.substr(0, 1)), FractionAtLeast(digits.substr(1), above, room - 1, false)}));
  return out_.Choice(std::move(choices));
}

ExprId JsonValues::FractionAtMost(std::string_view digits, bool below, int32_t room, bool first) {
  if (digits.empty()) return below ? out_.Never() : out_.Repeat(out_.Bytes("0"), first ? 1 : 0, room);
  // The last digit is not 0, so it is less when the digits end before.
  std::vector<ExprId> choices;
  if (!first) choices.push_back(out_.Empty());
  if (room > 0) {
    if (digits[0] > '0') {
      choices.push_back(out_.Sequence(
          {out_.OneOf({DigitRange('0', static_cast<char>(digits[0] - 1))}), Digits(0, room - 1)}));
    }
    choices.push_back(out_.Sequence(
        {out_.Bytes(digits.substr(0, 1)), FractionAtMost(digits.substr(1), below, room - 1, false)}));
  }
  return out_.Choice(std::move(choices));
}

ExprId JsonValues::FractionBetween(std::string_view low, bool above, std::string_view high, bool below,
                                   int32_t room, bool first) {
  if (low.empty() && !above) return FractionAtMost(high, below, room, first);
  if (high.empty() || room <= 0) return out_.Never();
  const char least = low.empty() ? '0' : low[0];
  const std::string_view rest = low.empty() ? low : low.substr(1);
  if (least > high[0]) return out_.Never();
  if (least == high[0]) {
    return out_.Sequence({out_.Bytes(high.substr(0, 1)),
                          FractionBetween(rest, above, high.substr(1), below, room - 1, false)});
  }
  std::vector<ExprId> choices;
  choices.push_back(out_.Sequence({out_.Bytes({&least, 1}), FractionAtLeast(rest, above, room - 1, false)}));
  if (least + 1 < high[0]) {
    const Range between = DigitRange(static_cast<char>(least + 1), static_cast<char>(high[0] - 1));
    choices.push_back(out_.Sequence({out_.OneOf({between}), Digits(0, room - 1)}));
  }
  choices.push_back(
      out_.Sequence({out_.Bytes(high.substr(0, 1)), FractionAtMost(high.substr(1), below, room - 1, false)}));
  return out_.Choice(std::move(choices));
}

// Numbers between two of zero and more; without `high`, up to four digits more than `low` has.
ExprId JsonValues::Magnitudes(const Decimal& low, bool above, const std::optional<Decimal>& high, bool below,
                              bool fractions) {
  if (high && (Compare(*high, low) < 0 || (Compare(*high, low) == 0 && (above || below))))
    return out_.Never();
  const std::string most =
      high ? high->whole : std::string(std::max<size_t>(kMaxWholeDigits, low.whole.size() + 1), '9');
  if (!fractions) {
    std::string from = low.whole, to = most;
    if (!low.fraction.empty() || above) from = PlusOne(from);
    if (high && high->fraction.empty() && below) {
      if (to == "0") return out_.Never();
      to = MinusOne(to);
    }
    return WholeBetween(from, to);
  }
  const std::string limit =
      high ? most : std::string(std::min<size_t>(low.whole.size() + 4, kMaxWholeDigits), '9');
  const auto longest = static_cast<int32_t>(std::max(low.fraction.size(), high ? high->fraction.size() : 0));
  const int32_t room = std::clamp(kMaxBoundedDigits - static_cast<int32_t>(limit.size()), 0,
                                  std::max(kBoundedFractionDigits, longest + 1));
  const auto point = [&](const std::string& whole, ExprId digits) {
    return out_.Sequence({out_.Bytes(whole), out_.Bytes("."), digits});
  };
  std::vector<ExprId> choices;
  const std::string from = PlusOne(low.whole);
  const bool same = high && high->whole == low.whole;
  if (low.fraction.empty() && !above && !(same && below && high->fraction.empty()))
    choices.push_back(out_.Bytes(low.whole));
  if (same) {
    if (room > 0) {
      choices.push_back(
          point(low.whole, FractionBetween(low.fraction, above, high->fraction, below, room, true)));
    }
    return out_.Choice(std::move(choices));
  }
  if (room > 0) choices.push_back(point(low.whole, FractionAtLeast(low.fraction, above, room, true)));
  const std::string to = high ? MinusOne(high->whole) : limit;
  if (!LessWhole(to, from)) {
    const ExprId fraction =
        room > 0 ? out_.Optional(out_.Sequence({out_.Bytes("."), Digits(1, room)})) : out_.Empty();
    choices.push_back(out_.Sequence({WholeBetween(from, to), fraction}));
  }
  if (high) {
    if (!below || !high->fraction.empty()) choices.push_back(out_.Bytes(high->whole));
    if (room > 0) choices.push_back(point(high->whole, FractionAtMost(high->fraction, below, room, true)));
  }
  return out_.Choice(std::move(choices));
}

ExprId JsonValues::Bounded(const NumberBounds& bounds, bool fractions) {
  std::vector<ExprId> choices;
  const Decimal zero;
  if (!bounds.most || !bounds.most->negative) {
    const bool from_least = bounds.least && !bounds.least->negative;
    choices.push_back(Magnitudes(from_least ? *bounds.least : zero, from_least && bounds.above, bounds.most,
                                 bounds.below, fractions));
  }
  if (!bounds.least || bounds.least->negative) {
    const bool to_most = bounds.most && (bounds.most->negative);
    const ExprId magnitude = Magnitudes(to_most ? *bounds.most : zero, to_most ? bounds.below : true,
                                        bounds.least, bounds.above, fractions);
    choices.push_back(out_.Sequence({out_.Bytes("-"), magnitude}));
  }
  return out_.Choice(std::move(choices));
}

ExprId JsonValues::Integer(const NumberBounds& bounds) {
  if (bounds.least || bounds.most) return Bounded(bounds, false);
  const ExprId whole = out_.Choice(
      {out_.Bytes("0"), out_.Sequence({out_.OneOf({DigitRange('1', '9')}), Digits(0, kMaxWholeDigits - 1)})});
  return out_.Sequence({out_.Optional(out_.Bytes("-")), whole});
}

ExprId JsonValues::Number(const NumberBounds& bounds) {
  if (bounds.least || bounds.most) return Bounded(bounds, true);
  const ExprId fraction = out_.Sequence({out_.Bytes("."), Digits(1, kMaxFractionDigits)});
  const ExprId sign = out_.OneOf({One('+'), One('-')});
  const ExprId exponent =
      out_.Sequence({out_.OneOf({One('e'), One('E')}), out_.Optional(sign), Digits(1, 2)});
  return out_.Sequence({Integer({}), out_.Optional(fraction), out_.Optional(exponent)});
}

// Digit by digit with what is left: rule r stands where the number so far leaves r.
ExprId JsonValues::IntegerMultiple(int32_t of) {
  std::vector<RuleId> rules;
  for (int32_t r = 0; r < of; ++r) rules.push_back(out_.AddRule("multiple"));
  const auto digit = [&](int32_t left, char c) {
    const int32_t next = (left * 10 + (c - '0')) % of;
    return out_.Sequence({out_.Bytes({&c, 1}), out_.Rule(rules[static_cast<size_t>(next)])});
  };
  for (int32_t r = 0; r < of; ++r) {
    std::vector<ExprId> choices;
    if (r == 0) choices.push_back(out_.Empty());
    for (char c = '0'; c <= '9'; ++c) choices.push_back(digit(r, c));
    out_.Define(rules[static_cast<size_t>(r)], out_.Choice(std::move(choices)));
  }
  std::vector<ExprId> first;
  for (char c = '1'; c <= '9'; ++c) first.push_back(digit(0, c));
  return out_.Choice(
      {out_.Bytes("0"), out_.Sequence({out_.Optional(out_.Bytes("-")), out_.Choice(std::move(first))})});
}

ExprId JsonValues::Literal(const Json& value) {
  if (!value.is_structured()) return out_.Bytes(value.dump(-1, ' ', false, Json::error_handler_t::replace));
  const bool object = value.is_object();
  std::vector<ExprId> parts{out_.Bytes(object ? "{" : "["), Space()};
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (!first) {
      parts.push_back(out_.Bytes(","));
      parts.push_back(Space());
    }
    first = false;
    if (object) {
      parts.push_back(Literal(Json(key)));
      parts.push_back(out_.Bytes(":"));
      parts.push_back(Space());
    }
    parts.push_back(Literal(item));
  }
  if (!first) parts.push_back(Space());
  parts.push_back(out_.Bytes(object ? "}" : "]"));
  return out_.Sequence(std::move(parts));
}

ExprId JsonValues::Any() {
  if (!any_) {
    any_ = out_.AddRule("value");
    const ExprId words = out_.Strings({"true", "false", "null"});
    out_.Define(*any_, out_.Choice({words, Number({}), String(0, kUnbounded), AnyObject(), AnyArray()}));
  }
  return out_.Rule(*any_);
}

ExprId JsonValues::AnyObject() {
  if (!object_) {
    object_ = out_.AddRule("object");
    const ExprId pair = out_.Sequence({String(0, kUnbounded), out_.Bytes(":"), Space(), Any()});
    const ExprId more = out_.Repeat(out_.Sequence({out_.Bytes(","), Space(), pair}), 0, kUnbounded);
    const ExprId end = out_.Bytes("}");
    out_.Define(*object_, out_.Sequence({out_.Bytes("{"), Space(),
                                         out_.Choice({end, out_.Sequence({pair, more, Space(), end})})}));
  }
  return out_.Rule(*object_);
}

ExprId JsonValues::AnyArray() {
  if (!array_) {
    array_ = out_.AddRule("array");
    const ExprId more = out_.Repeat(out_.Sequence({out_.Bytes(","), Space(), Any()}), 0, kUnbounded);
    const ExprId end = out_.Bytes("]");
    out_.Define(*array_, out_.Sequence({out_.Bytes("["), Space(),
                                        out_.Choice({end, out_.Sequence({Any(), more, Space(), end})})}));
  }
  return out_.Rule(*array_);
}

}  // namespace tidepool::grammar
