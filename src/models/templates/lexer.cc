#include "models/templates/lexer.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "models/templates/unicode.h"

namespace tidepool::templates {
namespace {

// A template with more tokens than this is not a chat template (the longest known has about 6,000).
constexpr size_t kMaxTokens = 500'000;

struct LexFailure {
  Error error;
};

// \r\n and \r become \n; one newline at the very end is dropped (jinja2's keep_trailing_newline = False).
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(NormalizeNewlines(source)) {}

  std::vector<Token> Run() {
    while (at_ < source_.size()) Root();
    Add(TokenKind::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Fail(std::string_view message) {
    throw LexFailure{SyntaxError(PositionAt(at_), message)};
  }

  // Called with growing offsets, so that a template is scanned once.
  Position PositionAt(size_t offset) {
    for (; scanned_ < offset; ++scanned_) {
      if (source_[scanned_] == '\n') {
        ++line_;
        column_ = 1;
      } else if ((static_cast<uint8_t>(source_[scanned_]) & 0xC0) != 0x80) {
        ++column_;
      }
    }
    return {line_, column_};
  }

  Token& Add(TokenKind kind, std::string text) {
    if (tokens_.size() >= kMaxTokens) Fail("the template is too long");
    Token token;
    token.kind = kind;
    token.position = PositionAt(at_);
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
    return tokens_.back();
  }

  bool StartsWith(size_t at, std::string_view text) const {
    return std::string_view(source_).substr(at).starts_with(text);
  }

  size_t SkipSpace(size_t at) const {
    while (at < source_.size()) {
      size_t next = at;
      if (!IsSpace(NextCodePoint(source_, &next))) break;
      at = next;
    }
    return at;
  }

  // `{%- raw %}`: the end of the tag, or 0.
  size_t MatchRaw(size_t at) const {
    at += 2;
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
    at = SkipSpace(at);
    if (!StartsWith(at, "raw")) return 0;
    at = SkipSpace(at + 3);
    if (StartsWith(at, "-%}")) return SkipSpace(at + 3);
    return StartsWith(at, "%}") ? at + 2 : 0;
  }

  // Text before a tag, with the whitespace removed that its sign and lstrip_blocks ask for.
  std::string_view StripBefore(std::string_view text, char sign, bool variable) const {
    if (sign == '-') return StripSpace(text, false, true);
    if (sign == '+' || variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return text;
    const auto rest = text.substr(line);
    return StripSpace(rest).empty() ? text.substr(0, line) : text;
  }

  void AddData(std::string_view text) {
    if (!text.empty()) Add(TokenKind::kData, std::string(text));
  }

  void NoteEnd(size_t end) {
    line_starting_ = end > 0 && source_[end - 1] == '\n';
    at_ = end;
  }

  void Root() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        AddData(std::string_view(source_).substr(at_));
        NoteEnd(source_.size());
        return;
      }
      const char c = source_[tag + 1];
      if (c == '%' || c == '{' || c == '#') break;
      ++tag;
    }
    const char type = source_[tag + 1];
    const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    AddData(StripBefore(std::string_view(source_).substr(at_, tag - at_), sign, type == '{'));
    at_ = tag;
    if (type == '%') {
      if (const size_t raw = MatchRaw(tag); raw != 0) {
        NoteEnd(raw);
        Raw();
        return;
      }
    }
    if (type == '#') {
      Comment(tag + 2 + (sign != '\0' ? 1 : 0));
      return;
    }
    Add(type == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, {});
    NoteEnd(tag + 2 + (sign != '\0' ? 1 : 0));
    Tag(type == '%');
  }

  // The end of a tag that begins at `at`, with what trim_blocks and `-` swallow; 0 when there is none.
  size_t MatchEnd(size_t at, std::string_view close, bool trims) const {
    if (trims && StartsWith(at, "+") && StartsWith(at + 1, close)) return at + 1 + close.size();
    if (StartsWith(at, "-") && StartsWith(at + 1, close)) return SkipSpace(at + 1 + close.size());
    if (!StartsWith(at, close)) return 0;
    const size_t end = at + close.size();
    return trims && end < source_.size() && source_[end] == '\n' ? end + 1 : end;
  }

  void Comment(size_t begin) {
    size_t close = source_.find("#}", begin);
    if (close == std::string::npos) Fail("Missing end of comment tag");
    if (close > begin && (source_[close - 1] == '-' || source_[close - 1] == '+')) --close;
    NoteEnd(MatchEnd(close, "#}", true));
  }

  void Raw() {
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      size_t at = tag + 2;
      const char sign =
          at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
      if (sign != '\0') ++at;
      at = SkipSpace(at);
      if (!StartsWith(at, "endraw")) continue;
      const size_t end = MatchEnd(SkipSpace(at + 6), "%}", true);
      if (end == 0) continue;
      AddData(StripBefore(std::string_view(source_).substr(at_, tag - at_), sign, false));
      NoteEnd(end);
      return;
    }
    Fail("Missing end of raw directive");
  }

  void Tag(bool block) {
    std::string open;  // brackets that are still open
    while (true) {
      if (at_ >= source_.size()) {
        // jinja2 ends the stream here and lets the parser complain.
        if (!open.empty()) Fail(fmt::format("'{}' is never closed", open.back()));
        return;
      }
      if (open.empty()) {
        const size_t end = MatchEnd(at_, block ? "%}" : "}}", block);
        if (end != 0) {
          Add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, {});
          NoteEnd(end);
          return;
        }
      }
      const size_t space = SkipSpace(at_);
      if (space != at_) {
        NoteEnd(space);
        continue;
      }
      Expression(&open);
    }
  }

  void Expression(std::string* open) {
    const char c = source_[at_];
    if (c >= '0' && c <= '9') return Number();
    if (c == '\'' || c == '"') return String();
    size_t next = at_;
    if (IsIdentifierStart(NextCodePoint(source_, &next))) return Name();
    Operator(open);
  }

  void Name() {
    size_t end = at_;
    while (end < source_.size()) {
      size_t next = end;
      if (!IsIdentifierPart(NextCodePoint(source_, &next))) break;
      end = next;
    }
    Add(TokenKind::kName, source_.substr(at_, end - at_));
    NoteEnd(end);
  }

  // digits with single underscores between them
  size_t Digits(size_t at, int base) const {
    const auto is_digit = [&](size_t i) {
      if (i >= source_.size()) return false;
      const char c = source_[i];
      if (base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))) return true;
      return c >= '0' && c < '0' + std::min(base, 10);
    };
    while (is_digit(at) || (at < source_.size() && source_[at] == '_' && is_digit(at + 1))) ++at;
    return at;
  }

  static std::string Without(std::string text, char unwanted) {
    std::erase(text, unwanted);
    return text;
  }

  void Number() {
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    if (const size_t end = FloatEnd(); end != 0 && !after_dot) {
      const std::string text = Without(source_.substr(at_, end - at_), '_');
      Add(TokenKind::kFloat, text).real = std::strtod(text.c_str(), nullptr);
      NoteEnd(end);
      return;
    }
    int base = 10;
    size_t begin = at_;
    if (source_[at_] == '0' && at_ + 1 < source_.size()) {
      const char letter = static_cast<char>(source_[at_ + 1] | 0x20);
      const int prefix = letter == 'x' ? 16 : (letter == 'o' ? 8 : (letter == 'b' ? 2 : 0));
      if (prefix != 0 && Digits(at_ + 2, prefix) > at_ + 2) {
        base = prefix;
        begin = at_ + 2;
      }
    }
    size_t end = Digits(begin, base);
    if (base == 10 && source_[at_] == '0') {  // decimal numbers have no leading zero
      end = at_ + 1;
      while (end < source_.size() &&
             (source_[end] == '0' || (source_[end] == '_' && StartsWith(end + 1, "0"))))
        ++end;
    }
    Integer value = 0;
    for (const char c : Without(source_.substr(begin, end - begin), '_')) {
      const int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
      if (__builtin_mul_overflow(value, Integer{base}, &value) ||
          __builtin_add_overflow(value, Integer{digit}, &value)) {
        Fail("an integer beyond 128 bits is not supported");
      }
    }
    Add(TokenKind::kInteger, source_.substr(at_, end - at_)).integer = value;
    NoteEnd(end);
  }

  // (\d+_)*\d+ then an exponent, or a fraction with an optional exponent; 0 when it is no float
  size_t FloatEnd() const {
    const size_t whole = Digits(at_, 10);
    size_t end = whole;
    if (end < source_.size() && source_[end] == '.' && Digits(end + 1, 10) > end + 1 &&
        source_[end + 1] != '_') {
      end = Digits(end + 1, 10);
    }
    if (end < source_.size() && (source_[end] | 0x20) == 'e') {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && source_[exponent] != '_' && Digits(exponent, 10) > exponent) {
        return Digits(exponent, 10);
      }
    }
    return end > whole ? end : 0;
  }

  void String() {
    const char quote = source_[at_];
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) Fail(fmt::format("unexpected char {}", StringReprOf(quote)));
    Add(TokenKind::kString, Unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    NoteEnd(end + 1);
  }

  static std::string StringReprOf(char c) { return c == '\'' ? "\"'\"" : fmt::format("'{}'", c); }

  // Python's unicode-escape codec over the text with non-ASCII characters written as escapes.
  std::string Unescape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size();) {
      if (text[i] != '\\') {
        out += text[i++];
        continue;
      }
      ++i;  // jinja2's string pattern takes care that something follows
      const auto simple = [&](char value) {
        out += value;
        ++i;
      };
      switch (text[i]) {
        case '\n': ++i; break;
        case '\\':
        case '\'':
        case '"': simple(text[i]); break;
        case 'a': simple('\a'); break;
        case 'b': simple('\b'); break;
        case 'f': simple('\f'); break;
        case 'n': simple('\n'); break;
        case 'r': simple('\r'); break;
        case 't': simple('\t'); break;
        case 'v': simple('\v'); break;
        case 'x': i = Hex(text, i + 1, 2, &out); break;
        case 'u': i = Hex(text, i + 1, 4, &out); break;
        case 'U': i = Hex(text, i + 1, 8, &out); break;
        case 'N': Fail("\\N escapes are not supported");
        default: i = Other(text, i, &out);
      }
    }
    return out;
  }

  size_t Other(std::string_view text, size_t i, std::string* out) {
    if (text[i] >= '0' && text[i] <= '7') {
      char32_t value = 0;
      for (int digits = 0; digits < 3 && i < text.size() && text[i] >= '0' && text[i] <= '7'; ++digits, ++i) {
        value = value * 8 + static_cast<char32_t>(text[i] - '0');
      }
      AppendUtf8(value, out);
      return i;
    }
    *out += '\\';
    if (static_cast<uint8_t>(text[i]) < 0x80) {
      *out += text[i];
      return i + 1;
    }
    // jinja2 writes the character as an escape first, so its backslash is eaten by the one before it.
    const auto c = static_cast<uint32_t>(NextCodePoint(text, &i));
    *out += c <= 0xFF ? fmt::format("x{:02x}", c)
                      : (c <= 0xFFFF ? fmt::format("u{:04x}", c) : fmt::format("U{:08x}", c));
    return i;
  }

  size_t Hex(std::string_view text, size_t i, size_t digits, std::string* out) {
    const auto part = text.substr(i, digits);
    uint32_t value = 0;
    const auto result = std::from_chars(part.data(), part.data() + part.size(), value, 16);
    if (part.size() < digits || result.ptr != part.data() + digits) Fail("truncated escape in a string");
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
      Fail("illegal Unicode character in a string");
    AppendUtf8(value, out);
    return i + digits;
  }

  void Operator(std::string* open) {
    constexpr std::array<std::string_view, 6> kLong = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kShort = "+-/*%~[](){}><=.:|,;";
    std::string_view found;
    for (const auto op : kLong) {
      if (StartsWith(at_, op)) found = op;
    }
    if (found.empty() && kShort.find(source_[at_]) != std::string_view::npos) {
      found = std::string_view(source_).substr(at_, 1);
    }
    if (found.empty()) Fail("unexpected character");
    const char c = found[0];
    if (c == '(' || c == '[' || c == '{') *open += c == '(' ? ')' : (c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open->empty()) Fail(fmt::format("unexpected '{}'", c));
      if (open->back() != c) Fail(fmt::format("unexpected '{}', expected '{}'", c, open->back()));
      open->pop_back();
    }
    Add(TokenKind::kOperator, std::string(found));
    NoteEnd(at_ + found.size());
  }

  std::string source_;
  size_t at_ = 0;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
  size_t scanned_ = 0;
  uint32_t line_ = 1;
  uint32_t column_ = 1;
};

}  // namespace

Error SyntaxError(Position position, std::string_view message) {
  return Error{ErrorKind::kInvalid, "template_syntax",
               fmt::format("chat template, line {}, column {}: {}", position.line, position.column, message),
               "chat_template", 0};
}

Result<std::vector<Token>> Tokenize(std::string_view source) {
  try {
    return Lexer(source).Run();
  } catch (const LexFailure& failure) {
    return Fail(failure.error);
  }
}

}  // namespace tidepool::templates
