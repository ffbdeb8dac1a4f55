// Filters on text and numbers, tojson, and the table of all filters.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "models/templates/filter_table.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {
namespace {

// markupsafe.soft_str: strings as they are (Markup stays Markup), others through str().
Value SoftText(Runtime& runtime, const Value& value) {
  return value.is_string() ? value : runtime.String(ToText(runtime, value));
}

template <std::string (*kChange)(std::string_view)>
Value ChangeCase(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "filter", arguments, {});
  const Value text = SoftText(runtime, subject);
  runtime.Work(text.text().size() * 4);
  runtime.Require(text.text().size() * 3);
  return runtime.String(kChange(text.text()), text.markup());
}

// jinja2's title: a word begins after one of -, (, {, [, < or whitespace.
std::string TitleFilter(std::string_view text) {
  const auto breaks = [](char32_t c) {
    return IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    size_t end = i;
    char32_t c = NextCodePoint(text, &end);
    if (breaks(c)) {
      out.append(text.substr(begin, end - begin));
      i = end;
      continue;
    }
    out += Upper(text.substr(begin, end - begin));
    const size_t rest = end;
    while (end < text.size()) {
      size_t next = end;
      if (breaks(NextCodePoint(text, &next))) break;
      end = next;
    }
    out += Lower(text.substr(rest, end - rest));
    i = end;
  }
  return out;
}

Value Trim(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "trim", arguments, {"chars"});
  const Value text = SoftText(runtime, subject);
  runtime.Work(text.text().size());
  const bool spaces = !p.has(0) || p[0].is_none();
  const auto stripped = spaces ? StripSpace(text.text()) : StripChars(text.text(), p.Text(0, {}), true, true);
  return runtime.String(std::string(stripped), text.markup());
}

Value StringFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "string", arguments, {});
  return SoftText(runtime, subject);
}

Value Safe(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "safe", arguments, {});
  return runtime.String(ToText(runtime, subject), true);
}

Value Escape(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "escape", arguments, {});
  if (subject.markup()) return subject;
  const std::string text = ToText(runtime, subject);
  runtime.Require(text.size() * 5);
  return runtime.String(EscapeHtml(text), true);
}

Value ForceEscape(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "forceescape", arguments, {});
  const std::string text = ToText(runtime, subject);
  runtime.Require(text.size() * 5);
  return runtime.String(EscapeHtml(text), true);
}

Value Replace(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "replace", arguments, {"old", "new", "count"}, 2);
  const int64_t count = p.has(2) && !p[2].is_none() ? p.Int(2, -1) : -1;
  return runtime.String(
      ReplaceText(runtime, ToText(runtime, subject), ToText(runtime, p[0]), ToText(runtime, p[1]), count));
}

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    const char32_t c = NextCodePoint(text, &i);
    if (!IsLineBreak(c)) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(begin, at - begin));
    begin = i;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

Value Indent(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "indent", arguments, {"width", "first", "blank"});
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (!subject.is_string()) runtime.Fail(fmt::format("indent: expected str, got {}", TypeName(subject)));
  std::string indentation;
  if (p.has(0) && p[0].is_string()) {
    indentation = p[0].text();
  } else {
    const int64_t width = p.Int(0, 4);
    if (width > (1 << 20)) runtime.FailLimit("memory bytes");
    indentation.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool blank = p.Flag(2, false);
  const std::string text = std::string(subject.text()) + "\n";
  runtime.Work(text.size());
  const auto lines = Lines(text);
  std::string out;
  if (p.Flag(1, false)) out += indentation;
  for (size_t i = 0; i < lines.size(); ++i) {
    runtime.Require(out.size() + indentation.size() + lines[i].size());
    runtime.Work(indentation.size());
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indentation;
    out += lines[i];
  }
  return runtime.String(std::move(out), subject.markup());
}

Value Truncate(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "truncate", arguments, {"length", "killwords", "end", "leeway"});
  const int64_t length = p.Int(0, 255);
  const std::string end(p.Text(2, "..."));
  const int64_t leeway = p.has(3) && !p[3].is_none() ? p.Int(3, 5) : 5;
  const auto end_size = static_cast<int64_t>(CountCodePoints(end));
  if (length < end_size || leeway < 0) runtime.Fail("truncate: length or leeway too small");
  const int64_t size = Length(subject);
  if (size < 0) runtime.Fail(fmt::format("object of type '{}' has no len()", TypeName(subject)));
  if (size <= length || size - length <= leeway) return subject;
  if (!subject.is_string()) runtime.Fail(fmt::format("truncate: expected str, got {}", TypeName(subject)));
  const auto& string = subject.As<StringObject>();
  auto head =
      std::string_view(string.text).substr(0, OffsetOf(string.text, static_cast<size_t>(length - end_size)));
  if (!p.Flag(1, false)) head = head.substr(0, head.rfind(' '));
  return runtime.String(std::string(head) + end, string.markup);
}

Value Centre(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "center", arguments, {"width"});
  Arguments width;
  width.positional.push_back(p.Or(0, Value::Int(80)));
  return FindStringMethod("center")->call(runtime, SoftText(runtime, subject), width);
}

Value FormatFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    runtime.Fail("can't handle positional and keyword arguments at the same time");
  }
  const Value text = SoftText(runtime, subject);
  if (arguments.named.empty()) {
    return Binary(runtime, BinaryOperator::kModulo, text, runtime.Tuple(arguments.positional));
  }
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [name, value] : arguments.named) entries.emplace_back(runtime.String(name), value);
  return Binary(runtime, BinaryOperator::kModulo, text, runtime.Dict(std::move(entries)));
}

Value WordCount(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "wordcount", arguments, {});
  const Value value = SoftText(runtime, subject);
  const auto text = value.text();
  runtime.Work(text.size() * 4);
  int64_t words = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    const bool part = IsAlphabetic(c) || IsNumeric(c) || c == '_';
    if (part && !in_word) ++words;
    in_word = part;
  }
  return Value::Int(words);
}

Value UrlEncode(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "urlencode", arguments, {});
  const auto quote = [&](const Value& v, bool query) {
    const std::string text = ToText(runtime, v);
    std::string out;
    for (const char c : text) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !query);
      if (plain)
        out += c;
      else if (c == ' ' && query)
        out += '+';
      else
        out += fmt::format("%{:02X}", static_cast<uint8_t>(c));
    }
    return out;
  };
  if (subject.is_string() || !IsIterable(subject)) return runtime.String(quote(subject, false));
  const Value pairs = subject.Is(Kind::kDict) ? runtime.DictView(subject, DictViewKind::kItems) : subject;
  std::string out;
  for (const Value& pair : Collect(runtime, pairs)) {
    const auto parts = Collect(runtime, pair);
    if (parts.size() != 2) runtime.Fail("urlencode: expected pairs");
    if (!out.empty()) out += '&';
    out += quote(parts[0], true) + "=" + quote(parts[1], true);
    runtime.Require(out.size());
  }
  return runtime.String(std::move(out));
}

// ---- numbers

// Python's int(text, base): spaces around, one sign, a prefix, single underscores between digits.
bool ParseInteger(std::string_view text, int base, Integer* out) {
  text = StripSpace(text);
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (text.size() > 1 && text[0] == '0' && base != 10) {
    const char letter = static_cast<char>(text[1] | 0x20);
    const int prefix = letter == 'x' ? 16 : (letter == 'o' ? 8 : (letter == 'b' ? 2 : 0));
    if (prefix != 0 && (base == 0 || base == prefix)) {
      base = prefix;
      text.remove_prefix(2);
      if (!text.empty() && text[0] == '_') text.remove_prefix(1);
    }
  }
  if (base == 0) base = 10;
  if (text.empty()) return false;
  Integer value = 0;
  bool digit_before = false;
  for (const char c : text) {
    if (c == '_') {
      if (!digit_before) return false;
      digit_before = false;
      continue;
    }
    int digit = 99;
    if (c >= '0' && c <= '9') digit = c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') digit = (c | 0x20) - 'a' + 10;
    if (digit >= base) return false;
    if (__builtin_mul_overflow(value, Integer{base}, &value)) return false;
    if (__builtin_add_overflow(value, Integer{digit}, &value)) return false;
    digit_before = true;
  }
  *out = negative ? -value : value;
  return digit_before;
}

bool ParseFloat(std::string_view text, double* out) {
  text = StripSpace(text);
  std::string plain;
  char before = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto is_digit = [](char d) { return d >= '0' && d <= '9'; };
    if (c == '_') {
      if (!is_digit(before) || i + 1 >= text.size() || !is_digit(text[i + 1])) return false;
    } else {
      plain += c;
    }
    before = c;
  }
  if (plain.empty()) return false;
  std::string_view body = plain;
  bool negative = false;
  if (body[0] == '+' || body[0] == '-') {
    negative = body[0] == '-';
    body.remove_prefix(1);
  }
  const std::string lower = Lower(body);
  if (lower == "inf" || lower == "infinity" || lower == "nan") {
    *out =
        lower == "nan" ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
    if (negative) *out = -*out;
    return true;
  }
  if (body.empty() || (body[0] != '.' && (body[0] < '0' || body[0] > '9'))) return false;
  const auto result = std::from_chars(body.data(), body.data() + body.size(), *out);
  if (result.ptr != body.data() + body.size()) return false;
  if (result.ec == std::errc::result_out_of_range) *out = std::strtod(std::string(body).c_str(), nullptr);
  if (negative) *out = -*out;
  return true;
}

bool ToInteger(double value, Integer* out) {
  if (!std::isfinite(value) || std::fabs(value) >= 1.7e38) return false;
  *out = static_cast<Integer>(value);
  return true;
}

Value IntFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "int", arguments, {"default", "base"});
  const Value fallback = p.Or(0, Value::Int(0));
  const int64_t base = p.Int(1, 10);
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (subject.is_integral()) return Value::Int(subject.integer());
  Integer value = 0;
  if (subject.Is(Kind::kFloat)) {
    if (std::isinf(subject.real())) runtime.Fail("cannot convert float infinity to integer");
    return ToInteger(subject.real(), &value) ? Value::Int(value) : fallback;
  }
  if (!subject.is_string()) return fallback;
  runtime.Work(subject.text().size());
  const bool base_is_valid = base == 0 || (base >= 2 && base <= 36);
  if (base_is_valid && ParseInteger(subject.text(), static_cast<int>(base), &value)) return Value::Int(value);
  double real = 0;
  if (ParseFloat(subject.text(), &real) && ToInteger(real, &value)) return Value::Int(value);
  return fallback;
}

Value FloatFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "float", arguments, {"default"});
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (subject.is_number()) return Value::Float(subject.real());
  double real = 0;
  if (subject.is_string() && ParseFloat(subject.text(), &real)) return Value::Float(real);
  return p.Or(0, Value::Float(0));
}

Value Abs(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "abs", arguments, {});
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (subject.Is(Kind::kFloat)) return Value::Float(std::fabs(subject.real()));
  if (!subject.is_integral())
    runtime.Fail(fmt::format("bad operand type for abs(): '{}'", TypeName(subject)));
  return subject.integer() < 0 ? Negate(runtime, subject) : Value::Int(subject.integer());
}

Value Round(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "round", arguments, {"precision", "method"});
  const int64_t precision = std::clamp<int64_t>(p.Int(0, 0), -400, 400);
  const auto method = p.Text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor") {
    runtime.Fail("method must be common, ceil or floor");
  }
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (!subject.is_number()) {
    runtime.Fail(fmt::format("type {} doesn't define __round__ method", TypeName(subject)));
  }
  if (method == "common" && subject.is_integral() && precision >= 0) return Value::Int(subject.integer());
  const double value = subject.real();
  if (!std::isfinite(value)) return subject;
  if (method == "common") {
    if (precision >= 0) {
      // printf rounds the exact binary value half to even, as CPython does.
      return Value::Float(
          std::strtod(fmt::format("{:.{}f}", value, std::min<int64_t>(precision, 330)).c_str(), nullptr));
    }
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    const double rounded = std::nearbyint(value / scale) * scale;
    Integer integer = 0;
    if (subject.is_integral() && ToInteger(rounded, &integer)) return Value::Int(integer);
    return Value::Float(rounded);
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = method == "ceil" ? std::ceil(value * scale) : std::floor(value * scale);
  return Value::Float(scaled / scale);
}

Value FileSize(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "filesizeformat", arguments, {"binary"});
  double value = subject.is_number() ? subject.real() : 0;
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (!subject.is_number() && !(subject.is_string() && ParseFloat(subject.text(), &value))) {
    runtime.Fail(fmt::format("could not convert to float: {}", Repr(runtime, subject)));
  }
  const bool binary = p.Flag(0, false);
  const double base = binary ? 1024 : 1000;
  if (value == 1) return runtime.String("1 Byte");
  if (std::isnan(value) || std::isinf(value)) runtime.Fail("cannot convert float to integer");
  if (value < base) {
    Integer whole = 0;
    if (!ToInteger(value, &whole)) runtime.Fail("cannot convert float to integer");
    return runtime.String(IntegerText(whole) + " Bytes");
  }
  constexpr std::string_view kPrefixes = "kMGTPEZY";
  double unit = base;
  for (size_t i = 0; i < kPrefixes.size(); ++i) {
    unit *= base;
    if (value < unit || i + 1 == kPrefixes.size()) {
      const char prefix = binary && i == 0 ? 'K' : kPrefixes[i];
      return runtime.String(fmt::format("{:.1f} {}{}B", base * value / unit, prefix, binary ? "i" : ""));
    }
  }
  return runtime.String({});
}

// ---- JSON

Value ToJsonFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = p.Flag(0, false);
  style.sort_keys = p.Flag(3, false);
  if (p.has(1) && !p[1].is_none()) {
    style.indented = true;
    style.item_separator = ",";
    if (p[1].is_string()) {
      style.indent = p[1].text();
    } else {
      const int64_t width = std::max<int64_t>(p.Int(1, 0), 0);
      if (width > 1024) runtime.Fail("tojson: indent above 1024", "template_limit");
      style.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (p.has(2) && !p[2].is_none()) {
    const auto separators = Collect(runtime, p[2]);
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string()) {
      runtime.Fail("tojson: separators must be two strings");
    }
    style.item_separator = separators[0].text();
    style.key_separator = separators[1].text();
  }
  return runtime.String(ToJson(runtime, subject, style));
}

// json.loads. Not in transformers' environment, but DeepSeek's V3.2 and V4 templates expect it.
Value FromJsonFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "from_json", arguments, {});
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (!subject.is_string()) {
    runtime.Fail(fmt::format("the JSON object must be str, bytes or bytearray, not {}", TypeName(subject)));
  }
  const auto text = subject.text();
  runtime.Work(text.size() * 16);
  // A parsed node takes about 16 bytes for every byte of text in the worst case ("[[[[").
  runtime.Require(text.size() * 16);
  int depth = 0;
  const auto guard = [&depth](int, nlohmann::ordered_json::parse_event_t event, nlohmann::ordered_json&) {
    using Event = nlohmann::ordered_json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) ++depth;
    if (event == Event::object_end || event == Event::array_end) --depth;
    return depth <= static_cast<int>(kMaxDataDepth);
  };
  const auto json = nlohmann::ordered_json::parse(text, guard, /*allow_exceptions=*/false);
  if (json.is_discarded()) runtime.Fail("from_json: not valid JSON");
  return runtime.FromJson(json);
}

constexpr FilterEntry kTextFilters[] = {
    {"abs", Abs},
    {"capitalize", ChangeCase<Capitalize>},
    {"center", Centre},
    {"e", Escape},
    {"escape", Escape},
    {"filesizeformat", FileSize},
    {"float", FloatFilter},
    {"forceescape", ForceEscape},
    {"format", FormatFilter},
    {"from_json", FromJsonFilter},
    {"indent", Indent},
    {"int", IntFilter},
    {"lower", ChangeCase<Lower>},
    {"replace", Replace},
    {"round", Round},
    {"safe", Safe},
    {"string", StringFilter},
    {"title", ChangeCase<TitleFilter>},
    {"tojson", ToJsonFilter},
    {"trim", Trim},
    {"truncate", Truncate},
    {"upper", ChangeCase<Upper>},
    {"urlencode", UrlEncode},
    {"wordcount", WordCount},
};

}  // namespace

std::span<const FilterEntry> TextFilters() { return kTextFilters; }

Filter FindFilter(std::string_view name) {
  for (const auto table : {TextFilters(), SequenceFilters()}) {
    for (const FilterEntry& entry : table) {
      if (entry.name == name) return entry.call;
    }
  }
  return nullptr;
}

}  // namespace tidepool::templates
