// Python's two ways to format: "…" % values and "…".format(values).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "models/templates/operators.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {
namespace {

// More digits than a double has (1074 after the point); a larger precision is a mistake or an attack.
constexpr int64_t kMaxPrecision = 1100;
constexpr int64_t kMaxWidth = 1 << 20;

struct Style {
  std::string fill = " ";
  char align = 0;  // < > ^ = or 0
  char sign = '-';
  bool alternate = false;
  char grouping = 0;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

std::string Pad(Runtime& runtime, std::string_view sign, std::string_view body, const Style& style,
                char align) {
  const auto size = static_cast<int64_t>(CountCodePoints(sign) + CountCodePoints(body));
  const int64_t missing = std::max<int64_t>(0, style.width - size);
  runtime.Require(static_cast<uint64_t>(missing) * style.fill.size() + body.size());
  int64_t left = 0;
  if (align == '>' || align == '=') left = missing;
  if (align == '^') left = missing / 2;
  std::string out;
  const auto fill = [&](int64_t n) {
    for (int64_t i = 0; i < n; ++i) out += style.fill;
  };
  if (align == '=') out += sign;
  fill(left);
  if (align != '=') out += sign;
  out += body;
  fill(missing - left);
  runtime.Work(out.size());
  return out;
}

std::string Digits(Integer magnitude, int base, bool upper) {
  if (magnitude == 0) return "0";
  std::string out;
  auto rest = static_cast<unsigned __int128>(magnitude);
  while (rest != 0) {
    const auto digit = static_cast<unsigned>(rest % static_cast<unsigned>(base));
    out.push_back(digit < 10 ? static_cast<char>('0' + digit)
                             : static_cast<char>((upper ? 'A' : 'a') + static_cast<char>(digit - 10)));
    rest /= static_cast<unsigned>(base);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

// printf's conversions agree with Python's for finite values; inf and nan are spelled by hand.
std::string FloatBody(double magnitude, char type, int64_t precision, bool alternate) {
  const bool upper = type == 'E' || type == 'F' || type == 'G';
  if (std::isinf(magnitude)) return upper ? "INF" : "inf";
  if (std::isnan(magnitude)) return upper ? "NAN" : "nan";
  if (precision < 0) precision = 6;
  const std::string format = fmt::format("%{}.*{}", alternate ? "#" : "", type);
  const int size = std::snprintf(nullptr, 0, format.c_str(), static_cast<int>(precision), magnitude);
  std::string out(static_cast<size_t>(size), '\0');
  std::snprintf(out.data(), out.size() + 1, format.c_str(), static_cast<int>(precision), magnitude);
  return out;
}

void Group(char separator, int every, std::string* body) {
  size_t end = 0;
  const auto is_digit = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  };
  while (end < body->size() && is_digit((*body)[end])) ++end;
  for (auto at = static_cast<int64_t>(end) - every; at > 0; at -= every) {
    body->insert(static_cast<size_t>(at), 1, separator);
  }
}

std::string_view SignOf(bool negative, char sign) {
  if (negative) return "-";
  if (sign == '+') return "+";
  return sign == ' ' ? " " : "";
}

void CheckSizes(Runtime& runtime, const Style& style) {
  if (style.width > kMaxWidth) runtime.Fail("format width too large", "template_limit");
  if (style.precision > kMaxPrecision) runtime.Fail("format precision too large", "template_limit");
}

// ---- %-formatting

class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, std::string_view format, const Value& value)
      : runtime_(runtime), format_(format), value_(value) {
    is_mapping_ = value.Is(Kind::kDict) || value.Is(Kind::kList) || value.is_undefined() ||
                  value.Is(Kind::kRange) || value.Is(Kind::kNamespace);
  }

  std::string Run() {
    while (at_ < format_.size()) {
      const size_t percent = format_.find('%', at_);
      if (percent == std::string_view::npos) {
        out_.append(format_.substr(at_));
        break;
      }
      out_.append(format_.substr(at_, percent - at_));
      at_ = percent + 1;
      Conversion();
      runtime_.Step();
      runtime_.Require(out_.size());
    }
    if (value_.Is(Kind::kTuple) ? next_ < value_.As<ListObject>().items.size() : !is_mapping_ && next_ == 0) {
      runtime_.Fail("not all arguments converted during string formatting");
    }
    return std::move(out_);
  }

 private:
  char Peek() {
    if (at_ >= format_.size()) runtime_.Fail("incomplete format");
    return format_[at_];
  }

  const Value& NextArgument() {
    if (value_.Is(Kind::kTuple)) {
      const auto& items = value_.As<ListObject>().items;
      if (next_ >= items.size()) runtime_.Fail("not enough arguments for format string");
      return items[next_++];
    }
    if (next_ > 0) runtime_.Fail("not enough arguments for format string");
    ++next_;
    return value_;
  }

  int64_t Number(bool allow_star, bool* left) {
    if (allow_star && Peek() == '*') {
      ++at_;
      const Value& v = NextArgument();
      if (!v.is_integral()) runtime_.Fail("* wants int");
      auto n = static_cast<int64_t>(std::clamp<Integer>(v.integer(), -kMaxWidth - 1, kMaxWidth + 1));
      if (n < 0 && left != nullptr) {
        *left = true;
        n = -n;
      }
      return std::max<int64_t>(n, 0);
    }
    int64_t n = 0;
    while (Peek() >= '0' && Peek() <= '9') {
      n = std::min<int64_t>(n * 10 + (Peek() - '0'), kMaxWidth + 1);
      ++at_;
    }
    return n;
  }

  void Conversion() {
    Style style;
    const Value* keyed = nullptr;
    Value item;
    if (Peek() == '(') {
      if (!value_.Is(Kind::kDict)) runtime_.Fail("format requires a mapping");
      size_t end = at_ + 1;
      int nesting = 1;
      for (; end < format_.size() && nesting > 0; ++end) {
        if (format_[end] == '(') ++nesting;
        if (format_[end] == ')') --nesting;
      }
      if (nesting > 0) runtime_.Fail("incomplete format key");
      const auto key = format_.substr(at_ + 1, end - at_ - 2);
      keyed = value_.As<DictObject>().Find(key);
      if (keyed == nullptr) runtime_.Fail(fmt::format("KeyError: '{}'", key));
      at_ = end;
      ++next_;
    }
    bool left = false;
    bool zero = false;
    for (;; ++at_) {
      const char c = Peek();
      if (c == '-')
        left = true;
      else if (c == '+')
        style.sign = '+';
      else if (c == ' ')
        style.sign = style.sign == '+' ? '+' : ' ';
      else if (c == '#')
        style.alternate = true;
      else if (c == '0')
        zero = true;
      else
        break;
    }
    style.width = Number(true, &left);
    if (Peek() == '.') {
      ++at_;
      style.precision = Number(true, nullptr);
    }
    while (Peek() == 'h' || Peek() == 'l' || Peek() == 'L') ++at_;
    style.type = Peek();
    ++at_;
    CheckSizes(runtime_, style);
    if (style.type == '%') {
      out_ += '%';
      return;
    }
    const Value& argument = keyed != nullptr ? *keyed : NextArgument();
    Apply(argument, style, left, zero);
  }

  void Apply(const Value& argument, const Style& base, bool left, bool zero) {
    Style style = base;
    std::string sign;
    std::string body;
    bool numeric = false;
    switch (style.type) {
      case 's': body = ToText(runtime_, argument); break;
      case 'r':
      case 'a': body = Repr(runtime_, argument); break;
      case 'c': body = Character(argument); break;
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        numeric = true;
        IntegerParts(argument, style, &sign, &body);
        break;
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        numeric = true;
        if (argument.is_undefined()) runtime_.FailUndefined(argument);
        if (!argument.is_number()) {
          runtime_.Fail(fmt::format("must be real number, not {}", TypeName(argument)));
        }
        sign = SignOf(std::signbit(argument.real()) && !std::isnan(argument.real()), style.sign);
        body = FloatBody(std::fabs(argument.real()), style.type, style.precision, style.alternate);
        break;
      default: runtime_.Fail(fmt::format("unsupported format character '{}'", style.type));
    }
    if (!numeric && style.precision >= 0) body.resize(OffsetOf(body, static_cast<size_t>(style.precision)));
    const bool pad_zero = zero && numeric && !left;
    if (pad_zero) style.fill = "0";
    out_ += Pad(runtime_, sign, body, style, left ? '<' : (pad_zero ? '=' : '>'));
  }

  std::string Character(const Value& argument) {
    std::string out;
    if (argument.is_string() && argument.As<StringObject>().length == 1) return std::string(argument.text());
    if (!argument.is_integral()) runtime_.Fail("%c requires int or char");
    const Integer c = argument.integer();
    if (c < 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) runtime_.Fail("%c arg not in range(0x110000)");
    AppendUtf8(static_cast<char32_t>(c), &out);
    return out;
  }

  void IntegerParts(const Value& argument, const Style& style, std::string* sign, std::string* body) {
    if (argument.is_undefined()) runtime_.FailUndefined(argument);
    const bool decimal = style.type == 'd' || style.type == 'i' || style.type == 'u';
    Integer n = 0;
    if (argument.is_integral()) {
      n = argument.integer();
    } else if (argument.Is(Kind::kFloat) && decimal && std::fabs(argument.real()) < 1e37) {
      n = static_cast<Integer>(argument.real());
    } else {
      runtime_.Fail(fmt::format("%{} format: a number is required, not {}", style.type, TypeName(argument)));
    }
    *sign = SignOf(n < 0, style.sign);
    const int base = decimal ? 10 : (style.type == 'o' ? 8 : 16);
    *body = Digits(n < 0 ? -n : n, base, style.type == 'X');
    if (style.precision > static_cast<int64_t>(body->size())) {
      body->insert(0, static_cast<size_t>(style.precision) - body->size(), '0');
    }
    if (style.alternate && !decimal) *sign += style.type == 'o' ? "0o" : (style.type == 'x' ? "0x" : "0X");
  }

  Runtime& runtime_;
  std::string_view format_;
  const Value& value_;
  bool is_mapping_ = false;
  size_t at_ = 0;
  size_t next_ = 0;
  std::string out_;
};

// ---- str.format

class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Arguments& arguments) : runtime_(runtime), arguments_(arguments) {}

  std::string Run(std::string_view format, int nesting) {
    if (nesting > 2) runtime_.Fail("Max string recursion exceeded");
    std::string out;
    for (size_t i = 0; i < format.size();) {
      const char c = format[i];
      if (c == '{' || c == '}') {
        if (i + 1 < format.size() && format[i + 1] == c) {
          out += c;
          i += 2;
          continue;
        }
        if (c == '}') runtime_.Fail("Single '}' encountered in format string");
        const size_t end = FieldEnd(format, i + 1);
        out += Field(format.substr(i + 1, end - i - 1), nesting);
        runtime_.Require(out.size());
        i = end + 1;
        continue;
      }
      size_t next = i;
      while (next < format.size() && format[next] != '{' && format[next] != '}') ++next;
      out.append(format.substr(i, next - i));
      i = next;
    }
    runtime_.Work(out.size());
    return out;
  }

 private:
  size_t FieldEnd(std::string_view format, size_t begin) {
    int open = 1;
    for (size_t i = begin; i < format.size(); ++i) {
      if (format[i] == '{') ++open;
      if (format[i] == '}' && --open == 0) return i;
    }
    runtime_.Fail("expected '}' before end of string");
  }

  std::string Field(std::string_view field, int nesting) {
    Runtime::Depth depth(runtime_, runtime_.position());
    // The name ends at the first ! or : outside brackets.
    size_t end = 0;
    for (bool in_brackets = false; end < field.size(); ++end) {
      if (field[end] == '[') in_brackets = true;
      if (field[end] == ']') in_brackets = false;
      if (!in_brackets && (field[end] == '!' || field[end] == ':')) break;
    }
    Value value = Lookup(field.substr(0, end));
    std::string_view rest = field.substr(end);
    if (rest.starts_with('!')) {
      if (rest.size() < 2) runtime_.Fail("end of string while looking for conversion specifier");
      const char conversion = rest[1];
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') runtime_.Fail("expected ':' after conversion specifier");
      if (conversion == 's')
        value = runtime_.String(ToText(runtime_, value));
      else if (conversion == 'r' || conversion == 'a')
        value = runtime_.String(Repr(runtime_, value));
      else
        runtime_.Fail(fmt::format("Unknown conversion specifier {}", conversion));
    }
    if (rest.starts_with(':')) rest.remove_prefix(1);
    const std::string spec =
        rest.find_first_of("{}") == std::string_view::npos ? std::string(rest) : Run(rest, nesting + 1);
    return Format(value, spec);
  }

  Value Lookup(std::string_view name) {
    size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = First(name.substr(0, end));
    while (end < name.size()) {
      runtime_.Step();
      if (name[end] == '.') {
        const size_t next = std::min(name.find_first_of(".[", end + 1), name.size());
        const auto attribute = name.substr(end + 1, next - end - 1);
        if (attribute.empty()) runtime_.Fail("Empty attribute in format string");
        value = GetAttribute(runtime_, value, attribute);
        end = next;
      } else {
        const size_t close = name.find(']', end);
        if (close == std::string_view::npos) runtime_.Fail("Missing ']' in format string");
        const auto key = name.substr(end + 1, close - end - 1);
        if (key.empty()) runtime_.Fail("Empty attribute in format string");
        int64_t index = 0;
        const bool number = ParseIndex(key, &index);
        value = GetItem(runtime_, value, number ? Value::Int(index) : runtime_.String(std::string(key)));
        end = close + 1;
        if (end < name.size() && name[end] != '.' && name[end] != '[') {
          runtime_.Fail("Only '.' or '[' may follow ']' in format field specifier");
        }
      }
    }
    return value;
  }

  static bool ParseIndex(std::string_view text, int64_t* index) {
    if (text.empty() || text.size() > 9) return false;
    *index = 0;
    for (const char c : text) {
      if (c < '0' || c > '9') return false;
      *index = *index * 10 + (c - '0');
    }
    return true;
  }

  Value First(std::string_view name) {
    int64_t index = 0;
    if (name.empty() || ParseIndex(name, &index)) {
      const bool automatic = name.empty();
      if (automatic) {
        if (manual_)
          runtime_.Fail("cannot switch from manual field specification to automatic field numbering");
        automatic_ = true;
        index = next_++;
      } else {
        if (automatic_) {
          runtime_.Fail("cannot switch from automatic field numbering to manual field specification");
        }
        manual_ = true;
      }
      if (index >= static_cast<int64_t>(arguments_.positional.size())) {
        runtime_.Fail("Replacement index out of range for positional args tuple");
      }
      return arguments_.positional[static_cast<size_t>(index)];
    }
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    runtime_.Fail(fmt::format("KeyError: '{}'", name));
  }

  Style ParseSpec(std::string_view spec) {
    Style style;
    style.fill.clear();
    const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    size_t i = 0;
    if (!spec.empty()) {
      size_t after = 0;
      NextCodePoint(spec, &after);
      if (after < spec.size() && is_align(spec[after])) {
        style.fill = spec.substr(0, after);
        style.align = spec[after];
        i = after + 1;
      } else if (is_align(spec[0])) {
        style.align = spec[0];
        i = 1;
      }
    }
    const auto peek = [&] { return i < spec.size() ? spec[i] : '\0'; };
    if (peek() == '+' || peek() == '-' || peek() == ' ') style.sign = spec[i++];
    if (peek() == '#') {
      style.alternate = true;
      ++i;
    }
    if (peek() == '0') {
      if (style.fill.empty()) style.fill = "0";
      if (style.align == 0) style.align = '=';
      zero_ = true;
      ++i;
    } else {
      zero_ = false;
    }
    const auto number = [&] {
      int64_t n = 0;
      while (peek() >= '0' && peek() <= '9') n = std::min<int64_t>(n * 10 + (spec[i++] - '0'), kMaxWidth + 1);
      return n;
    };
    style.width = number();
    if (peek() == ',' || peek() == '_') style.grouping = spec[i++];
    if (peek() == '.') {
      ++i;
      if (peek() < '0' || peek() > '9') runtime_.Fail("Format specifier missing precision");
      style.precision = number();
    }
    if (i < spec.size()) style.type = spec[i++];
    if (i < spec.size()) runtime_.Fail(fmt::format("Invalid format specifier '{}'", spec));
    if (style.fill.empty()) style.fill = " ";
    CheckSizes(runtime_, style);
    return style;
  }

  [[noreturn]] void Unknown(const Style& style, const Value& value) {
    runtime_.Fail(
        fmt::format("Unknown format code '{}' for object of type '{}'", style.type, TypeName(value)));
  }

  std::string Format(const Value& value, std::string_view spec) {
    if (spec.empty()) return ToText(runtime_, value);
    if (value.is_undefined()) return FormatString(value, spec);
    if (value.is_string()) return FormatString(value, spec);
    if (value.is_integral()) return FormatInteger(value, spec);
    if (value.Is(Kind::kFloat)) return FormatFloat(value, spec);
    runtime_.Fail(fmt::format("unsupported format string passed to {}.__format__", TypeName(value)));
  }

  std::string FormatString(const Value& value, std::string_view spec) {
    if (value.is_undefined()) runtime_.Fail("unsupported format string passed to Undefined.__format__");
    const Style style = ParseSpec(spec);
    if (style.type != 0 && style.type != 's') Unknown(style, value);
    if (style.sign != '-' || style.alternate || style.grouping != 0) {
      runtime_.Fail("Sign, '#' and ',' not allowed in string format specifier");
    }
    if (style.align == '=' && !zero_) {
      runtime_.Fail("'=' alignment not allowed in string format specifier");
    }
    std::string text(value.text());
    if (style.precision >= 0) text.resize(OffsetOf(text, static_cast<size_t>(style.precision)));
    const char align = style.align == 0 || style.align == '=' ? '<' : style.align;
    return Pad(runtime_, {}, text, style, align);
  }

  std::string FormatInteger(const Value& value, std::string_view spec) {
    const Style style = ParseSpec(spec);
    if (style.type != 0 && std::string_view("eEfFgG%").find(style.type) != std::string_view::npos) {
      return FormatReal(value.real(), style);
    }
    if (style.precision >= 0) runtime_.Fail("Precision not allowed in integer format specifier");
    const Integer n = value.integer();
    std::string prefix;
    int base = 10;
    switch (style.type) {
      case 0:
      case 'd':
      case 'n': break;
      case 'b':
        base = 2;
        prefix = "0b";
        break;
      case 'o':
        base = 8;
        prefix = "0o";
        break;
      case 'x':
      case 'X':
        base = 16;
        prefix = style.type == 'x' ? "0x" : "0X";
        break;
      case 'c': {
        std::string out;
        if (n < 0 || n > 0x10FFFF || (n >= 0xD800 && n < 0xE000))
          runtime_.Fail("%c arg not in range(0x110000)");
        AppendUtf8(static_cast<char32_t>(n), &out);
        return Pad(runtime_, {}, out, style, style.align == 0 ? '<' : style.align);
      }
      default: Unknown(style, value);
    }
    std::string body = Digits(n < 0 ? -n : n, base, style.type == 'X');
    if (style.grouping != 0) Group(style.grouping, base == 10 ? 3 : 4, &body);
    std::string sign(SignOf(n < 0, style.sign));
    if (style.alternate) sign += prefix;
    return Pad(runtime_, sign, body, style, style.align == 0 ? '>' : style.align);
  }

  std::string FormatFloat(const Value& value, std::string_view spec) {
    return FormatReal(value.real(), ParseSpec(spec));
  }

  std::string FormatReal(double value, const Style& style) {
    const double magnitude = std::fabs(value);
    std::string body;
    switch (style.type) {
      case 0:
        if (style.precision < 0) {
          body = FloatRepr(magnitude);
        } else {
          body = FloatBody(magnitude, 'g', std::max<int64_t>(style.precision, 1), style.alternate);
          if (body.find_first_of(".en") == std::string::npos) body += ".0";
        }
        break;
      case '%': body = FloatBody(magnitude * 100, 'f', style.precision, style.alternate) + "%"; break;
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': body = FloatBody(magnitude, style.type, style.precision, style.alternate); break;
      case 'n': body = FloatBody(magnitude, 'g', style.precision, style.alternate); break;
      default: Unknown(style, Value::Float(value));
    }
    if (style.grouping != 0) Group(style.grouping, 3, &body);
    const auto sign = SignOf(std::signbit(value) && !std::isnan(value), style.sign);
    return Pad(runtime_, sign, body, style, style.align == 0 ? '>' : style.align);
  }

  Runtime& runtime_;
  const Arguments& arguments_;
  bool automatic_ = false;
  bool manual_ = false;
  bool zero_ = false;
  int64_t next_ = 0;
};

}  // namespace

std::string FormatPercent(Runtime& runtime, std::string_view format, const Value& value) {
  runtime.Work(format.size());
  return PercentFormatter(runtime, format, value).Run();
}

std::string FormatBraces(Runtime& runtime, std::string_view format, const Arguments& arguments) {
  return BraceFormatter(runtime, arguments).Run(format, 1);
}

}  // namespace tidepool::templates
