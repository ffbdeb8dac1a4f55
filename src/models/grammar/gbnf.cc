#include "models/grammar/gbnf.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string>

#include "models/text/utf8.h"

namespace tidepool::grammar {
namespace {

constexpr size_t kMaxSource = 1 << 20;
constexpr int kMaxParentheses = 200;
constexpr int32_t kMaxRepeats = 1'000'000;

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

class GbnfParser {
 public:
  GbnfParser(std::string_view source, Expressions& out) : source_(source), out_(out) {}

  Result<ExprId> Run() {
    if (source_.size() > kMaxSource) return Bad(fmt::format("it is longer than {} bytes", kMaxSource));
    SkipSpaces(true);
    while (at_ < source_.size()) {
      TP_TRY(Rule());
      SkipSpaces(true);
    }
    for (const auto& [name, rule] : rules_) {
      if (!rule.defined) return Bad(fmt::format("rule {} is used but not defined", name));
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) return Bad("there is no rule named root");
    return out_.Rule(root->second.id);
  }

 private:
  struct Known {
    RuleId id = 0;
    bool defined = false;
  };

  tl::unexpected<Error> Bad(std::string_view what) const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at_ && i < source_.size(); ++i) {
      column = source_[i] == '\n' ? 1 : column + 1;
      line += source_[i] == '\n' ? 1 : 0;
    }
    return Fail(ErrorKind::kInvalid, "invalid_grammar",
                fmt::format("grammar, line {}, column {}: {}", line, column, what));
  }
  bool Eat(std::string_view word) {
    if (!source_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  // Line ends end a rule, unless it is inside parentheses or goes on after a |.
  void SkipSpaces(bool lines) {
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == '#') {
        while (at_ < source_.size() && source_[at_] != '\n') ++at_;
      } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  Result<std::string> Name() {
    const size_t begin = at_;
    while (at_ < source_.size() && IsNameCharacter(source_[at_])) ++at_;
    if (at_ == begin) return Bad("a name was expected");
    return std::string(source_.substr(begin, at_ - begin));
  }

  Known& Find(const std::string& name) {
    const auto [entry, fresh] = rules_.try_emplace(name);
    if (fresh) entry->second.id = out_.AddRule(name);
    return entry->second;
  }

  Status Rule() {
    TP_ASSIGN(const std::string name, Name());
    SkipSpaces(false);
    if (!Eat("::=")) return Bad("::= was expected");
    SkipSpaces(true);
    TP_ASSIGN(const ExprId body, Alternatives(0));
    if (at_ < source_.size() && source_[at_] != '\n' && source_[at_] != '\r')
      return Bad("the end of the line was expected");
    Known& rule = Find(name);
    if (rule.defined) return Bad(fmt::format("rule {} is defined twice", name));
    rule.defined = true;
    out_.Define(rule.id, body);
    return {};
  }

  Result<ExprId> Alternatives(int depth) {
    std::vector<ExprId> choices;
    do {
      SkipSpaces(true);
      TP_ASSIGN(const ExprId choice, Sequence(depth));
      choices.push_back(choice);
    } while (Eat("|"));
    return out_.Choice(std::move(choices));
  }

  Result<ExprId> Sequence(int depth) {
    std::vector<ExprId> parts;
    while (true) {
      SkipSpaces(depth > 0);
      if (at_ >= source_.size()) break;
      const char c = source_[at_];
      if (c == '|' || c == ')' || c == '\n' || c == '\r') break;
      std::optional<ExprId> item;
      if (c == '"') {
        TP_ASSIGN(item, Literal());
      } else if (c == '[') {
        TP_ASSIGN(item, Class());
      } else if (c == '.') {
        ++at_;
        item = out_.OneOf({{0, 0x10FFFF}});
      } else if (c == '(') {
        ++at_;
        if (depth >= kMaxParentheses) return Bad("too many nested parentheses");
        TP_ASSIGN(item, Alternatives(depth + 1));
        SkipSpaces(true);
        if (!Eat(")")) return Bad(") was expected");
      } else if (IsNameCharacter(c)) {
        TP_ASSIGN(const std::string name, Name());
        item = out_.Rule(Find(name).id);
      } else {
        return Bad(c == '<' || c == '!' ? "tokens are not supported; write their text"
                                        : "an unexpected character");
      }
      TP_ASSIGN(const ExprId repeated, Quantified(*item, depth > 0));
      parts.push_back(repeated);
    }
    return out_.Sequence(std::move(parts));
  }

  // llama.cpp lets white space stand before *, +, ? and {.
  Result<ExprId> Quantified(ExprId item, bool lines) {
    for (SkipSpaces(lines); at_ < source_.size(); SkipSpaces(lines)) {
      if (Eat("*")) {
        item = out_.Repeat(item, 0, kUnbounded);
      } else if (Eat("+")) {
        item = out_.Repeat(item, 1, kUnbounded);
      } else if (Eat("?")) {
        item = out_.Repeat(item, 0, 1);
      } else if (Eat("{")) {
        SkipSpaces(false);
        const auto min = Number();
        auto max = min;
        SkipSpaces(false);
        if (Eat(",")) {
          SkipSpaces(false);
          max = source_.substr(at_).starts_with("}") ? std::optional<int32_t>(kUnbounded) : Number();
          SkipSpaces(false);
        }
        if (!min || !max || !Eat("}") || (*max != kUnbounded && *max < *min))
          return Bad("{m}, {m,} or {m,n} was expected");
        item = out_.Repeat(item, *min, *max);
      } else {
        break;
      }
    }
    return item;
  }

  std::optional<int32_t> Number() {
    const size_t begin = at_;
    int32_t value = 0;
    while (at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '9' && value <= kMaxRepeats) {
      value = value * 10 + (source_[at_++] - '0');
    }
    return at_ == begin || value > kMaxRepeats ? std::nullopt : std::optional<int32_t>(value);
  }

  Result<ExprId> Literal() {
    ++at_;
    std::string bytes;
    while (true) {
      if (at_ >= source_.size()) return Bad("a text without its closing quote");
      if (Eat("\"")) return out_.Bytes(bytes);
      TP_ASSIGN(const char32_t c, Character());
      text::AppendCharacter(bytes, c);
    }
  }

  Result<ExprId> Class() {
    ++at_;
    const bool negated = Eat("^");
    std::vector<Range> ranges;
    while (true) {
      if (at_ >= source_.size()) return Bad("a class without its ]");
      if (Eat("]")) break;
      TP_ASSIGN(const char32_t first, Character());
      char32_t last = first;
      if (source_.substr(at_).starts_with("-") && !source_.substr(at_).starts_with("-]")) {
        ++at_;
        if (at_ >= source_.size()) return Bad("a class without its ]");
        TP_ASSIGN(last, Character());
      }
      if (last < first) return Bad("a range in a class must go from one character to a later one");
      ranges.push_back({first, last});
    }
    return out_.OneOf(negated ? Complement(std::move(ranges)) : std::move(ranges));
  }

  Result<char32_t> Character() {
    if (source_[at_] != '\\') {
      const text::Character c = text::ReadCharacter(source_, at_);
      if (!c.valid) return Bad("it is no UTF-8");
      at_ += c.size;
      return static_cast<char32_t>(c.code);
    }
    ++at_;
    if (at_ >= source_.size()) return Bad("a \\ at the end");
    const char c = source_[at_++];
    int digits = 0;
    switch (c) {
      case 'n': return U'\n';
      case 'r': return U'\r';
      case 't': return U'\t';
      case '\\':
      case '"':
      case '[':
      case ']': return static_cast<char32_t>(c);
      case 'x': digits = 2; break;
      case 'u': digits = 4; break;
      case 'U': digits = 8; break;
      default: --at_; return Bad("an unknown escape");
    }
    char32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char h = at_ < source_.size() ? source_[at_] : ' ';
      const int digit = h >= '0' && h <= '9'                     ? h - '0'
                        : (h | 0x20) >= 'a' && (h | 0x20) <= 'f' ? (h | 0x20) - 'a' + 10
                                                                 : -1;
      if (digit < 0) return Bad(fmt::format("\\{} needs {} hexadecimal digits", c, digits));
      value = value * 16 + static_cast<char32_t>(digit);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return Bad("no character has this number");
    return value;
  }

  const std::string_view source_;
  Expressions& out_;
  size_t at_ = 0;
  std::map<std::string, Known> rules_;
};

}  // namespace

Result<ExprId> ParseGbnf(std::string_view source, Expressions& out) { return GbnfParser(source, out).Run(); }

}  // namespace tidepool::grammar
