#include "models/grammar/regex.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "models/text/utf8.h"

namespace tidepool::grammar {
namespace {

constexpr size_t kMaxPattern = 64 << 10;
constexpr int kMaxGroups = 200;  // nested
constexpr int32_t kMaxCount = 1'000'000;

using Ranges = std::vector<Range>;

const Ranges kDigits = {{'0', '9'}};
const Ranges kWords = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const Ranges kSpaces = {{'\t', '\r'}, {' ', ' '}};
// What \D, \W and \S match in both dialects: Python's \d and \w know digits and letters of all scripts. (The
// first decimal digits beyond ASCII are Arabic, U+0660.)
const Ranges kNoDigits = {{0, '0' - 1}, {'9' + 1, 0x65F}, {0x3000, 0xA61F}};
const Ranges kNoWords = {
    {0, '0' - 1}, {'9' + 1, 'A' - 1}, {'Z' + 1, '_' - 1}, {'_' + 1, 'a' - 1}, {'z' + 1, 0x7F}};
const Ranges kAllSpaces = {{'\t', '\r'},     {0x1C, ' '},      {0x85, 0x85},     {0xA0, 0xA0},
                           {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                           {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Ranges kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

bool IsHexDigit(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
uint32_t HexValue(char32_t c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; }

class RegexParser {
 public:
  RegexParser(std::string_view pattern, RegexUse use, Expressions& out) : use_(use), out_(out) {
    for (size_t at = 0; at < pattern.size();) {
      const text::Character character = text::ReadCharacter(pattern, at);
      valid_ = valid_ && character.valid;
      text_ += character.code;
      at += character.size;
    }
  }

  Result<ExprId> Run() {
    if (!valid_) return Bad("it is no UTF-8");
    if (text_.size() > kMaxPattern) return Bad(fmt::format("it is longer than {} characters", kMaxPattern));
    std::vector<ExprId> choices;
    do {
      TP_ASSIGN(const ExprId choice, Alternative(0, true));
      choices.push_back(choice);
    } while (Eat('|'));
    if (at_ < text_.size()) return Bad("an unmatched )");
    return out_.Choice(std::move(choices));
  }

 private:
  tl::unexpected<Error> Bad(std::string_view what) const {
    return Fail(ErrorKind::kInvalid, "unsupported_regex",
                fmt::format("regular expression, character {}: {}", at_, what));
  }
  bool Eat(char32_t c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool Next(char32_t c) const { return at_ < text_.size() && text_[at_] == c; }

  // With `top`, anchors at its ends count; without them a pattern of JSON schema may match anywhere.
  Result<ExprId> Alternative(int depth, bool top) {
    std::vector<ExprId> parts;
    const bool searches = top && use_ == RegexUse::kJsonString;
    bool open_left = searches, open_right = searches;
    if (use_ == RegexUse::kPart && Next('^')) return Bad("^ is not supported: a match may begin anywhere");
    while (top && Eat('^')) open_left = false;
    if (open_left) parts.push_back(out_.Repeat(JsonStringCharacter(out_), 0, kUnbounded, true));
    while (at_ < text_.size() && text_[at_] != '|' && text_[at_] != ')') {
      if (use_ == RegexUse::kPart && Next('$')) return Bad("$ is not supported: a match may end anywhere");
      if (Eat('$')) {
        if (!top || (at_ < text_.size() && text_[at_] != '|')) return Bad("$ is supported at the end only");
        open_right = false;
        break;
      }
      TP_ASSIGN(const ExprId atom, Atom(depth));
      TP_ASSIGN(const ExprId repeated, Quantified(atom));
      parts.push_back(repeated);
    }
    if (open_right) parts.push_back(out_.Repeat(JsonStringCharacter(out_), 0, kUnbounded, true));
    return out_.Sequence(std::move(parts));
  }

  Result<ExprId> Quantified(ExprId atom) {
    int32_t min = 1, max = 1;
    if (Eat('*')) {
      min = 0, max = kUnbounded;
    } else if (Eat('+')) {
      max = kUnbounded;
    } else if (Eat('?')) {
      min = 0;
    } else if (Next('{')) {
      const size_t begin = at_++;
      const std::optional<int32_t> least = Number();
      std::optional<int32_t> most = least;
      if (Eat(',')) most = Next('}') ? std::optional<int32_t>(kUnbounded) : Number();
      if (!least || !most || !Eat('}')) {
        at_ = begin;
        return Bad("{ begins no count; write \\{ for the character");
      }
      if (*most != kUnbounded && *most < *least) return Bad("a count of at most fewer than at least");
      min = *least, max = *most;
    } else {
      return atom;
    }
    Eat('?');  // lazy: the same texts
    if (Next('*') || Next('+') || Next('{')) return Bad("two quantifiers after each other");
    return out_.Repeat(atom, min, max);
  }

  std::optional<int32_t> Number() {
    const size_t begin = at_;
    int32_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9' && value <= kMaxCount) {
      value = value * 10 + static_cast<int32_t>(text_[at_++] - '0');
    }
    if (at_ == begin || value > kMaxCount) return std::nullopt;
    return value;
  }

  Result<ExprId> Atom(int depth) {
    const char32_t c = text_[at_++];
    switch (c) {
      case '(': return Group(depth);
      case '[': return Class();
      case '.': return Character(Complement(kLineEnds));
      case '\\': {
        TP_ASSIGN(const Ranges ranges, Escape(false));
        return Character(ranges);
      }
      case '^': --at_; return Bad("^ is supported at the beginning only");
      case '*':
      case '+':
      case '?': --at_; return Bad("a quantifier with nothing before it");
      case '{':
      case '}':
      case ']':
      default: return Character({{c, c}});
    }
  }

  Result<ExprId> Group(int depth) {
    if (depth >= kMaxGroups) return Bad("too many nested groups");
    if (Eat('?')) {
      if (Eat('P') || Next('<')) {
        if (!Eat('<') || Next('=') || Next('!')) return Bad("look-behind is not supported");
        while (at_ < text_.size() && text_[at_] != '>') ++at_;
        if (!Eat('>')) return Bad("a group's name without an end");
      } else if (!Eat(':')) {
        return Bad(Next('=') || Next('!') ? "look-ahead is not supported"
                                          : "flags of groups are not supported");
      }
    }
    std::vector<ExprId> choices;
    do {
      TP_ASSIGN(const ExprId choice, Alternative(depth + 1, false));
      choices.push_back(choice);
    } while (Eat('|'));
    if (!Eat(')')) return Bad("a group without its )");
    return out_.Choice(std::move(choices));
  }

  Result<ExprId> Class() {
    const bool negated = Eat('^');
    Ranges ranges;
    bool shorthand_negated = false;
    while (true) {
      if (at_ >= text_.size()) return Bad("a class without its ]");
      if (Eat(']')) break;
      TP_ASSIGN(const Ranges first, ClassItem(shorthand_negated));
      if (!Next('-') || at_ + 1 >= text_.size() || text_[at_ + 1] == ']') {
        ranges.insert(ranges.end(), first.begin(), first.end());
        continue;
      }
      ++at_;
      TP_ASSIGN(const Ranges last, ClassItem(shorthand_negated));
      if (first.size() != 1 || last.size() != 1 || first[0].first != first[0].last ||
          last[0].first != last[0].last || first[0].first > last[0].first) {
        return Bad("a range in a class must go from one character to a later one");
      }
      ranges.push_back({first[0].first, last[0].first});
    }
    if (!negated) return Character(ranges);
    if (shorthand_negated) return Bad("\\D, \\W and \\S in a negated class are not supported");
    // What neither dialect's shorthands match; a class of plain characters is exact.
    if (wide_) {
      const bool words = wide_ == 'w', digits = wide_ == 'd';
      const Ranges keep = words ? kNoWords : digits ? kNoDigits : Complement(kAllSpaces);
      Ranges both = Complement(ranges);
      Ranges cut;
      for (const Range& a : both) {
        for (const Range& b : keep) {
          if (std::max(a.first, b.first) <= std::min(a.last, b.last)) {
            cut.push_back({std::max(a.first, b.first), std::min(a.last, b.last)});
          }
        }
      }
      wide_ = 0;
      return Character(cut);
    }
    return Character(Complement(ranges));
  }

  Result<Ranges> ClassItem(bool& shorthand_negated) {
    const char32_t c = text_[at_++];
    if (c != '\\') return Ranges{{c, c}};
    if (at_ < text_.size()) {
      const char32_t kind = text_[at_];
      if (kind == 'D' || kind == 'W' || kind == 'S') shorthand_negated = true;
      if (kind == 'd' || kind == 's')
        wide_ = wide_ == 0 ? static_cast<char>(kind) : wide_ == static_cast<char>(kind) ? wide_ : 'w';
      if (kind == 'w') wide_ = 'w';
    }
    return Escape(true);
  }

  Result<Ranges> Escape(bool in_class) {
    if (at_ >= text_.size()) return Bad("a \\ at the end");
    const char32_t c = text_[at_++];
    const auto hex = [&](int digits) -> std::optional<char32_t> {
      char32_t value = 0;
      for (int i = 0; i < digits; ++i, ++at_) {
        if (at_ >= text_.size() || !IsHexDigit(text_[at_])) return std::nullopt;
        value = value * 16 + HexValue(text_[at_]);
      }
      return value;
    };
    switch (c) {
      case 'd': return kDigits;
      case 'w': return kWords;
      case 's': return kSpaces;
      case 'D': return kNoDigits;
      case 'W': return kNoWords;
      case 'S': return Complement(kAllSpaces);
      case 'n': return Ranges{{'\n', '\n'}};
      case 'r': return Ranges{{'\r', '\r'}};
      case 't': return Ranges{{'\t', '\t'}};
      case 'f': return Ranges{{'\f', '\f'}};
      case 'v': return Ranges{{'\v', '\v'}};
      case '0': return Ranges{{0, 0}};
      case 'x':
      case 'u': {
        const auto value = hex(c == 'x' ? 2 : 4);
        if (!value) return Bad("\\x and \\u need 2 and 4 hexadecimal digits");
        return Ranges{{*value, *value}};
      }
      case 'b':
        if (in_class) return Ranges{{'\b', '\b'}};
        return Bad("word boundaries are not supported");
      default: break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c >= '1' && c <= '9') return Bad("back references are not supported");
    if (letter) return Bad(fmt::format("\\{} is not supported", static_cast<char>(c)));
    return Ranges{{c, c}};
  }

  // One character, as it stands or as JSON writes it.
  ExprId Character(const Ranges& given) {
    if (use_ == RegexUse::kText) return out_.OneOf(given);
    std::vector<ExprId> choices;
    Ranges plain;
    for (const Range& range : Normalised(given)) {
      // Cut out what a JSON string escapes.
      for (char32_t first = range.first; first <= range.last;) {
        if (first >= 0x20 && first != '"' && first != '\\') {
          char32_t last = range.last;
          if (first < '"' && last >= '"') last = '"' - 1;
          if (first > '"' && first < '\\' && last >= '\\') last = '\\' - 1;
          plain.push_back({first, last});
          first = last + 1;
          continue;
        }
        static constexpr std::string_view kShort = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
        const size_t found = kShort.find(static_cast<char>(first));
        if (found != std::string_view::npos) {
          choices.push_back(out_.Bytes(std::string("\\") + kLetters[found]));
        } else {
          choices.push_back(out_.Bytes(fmt::format("\\u{:04x}", static_cast<uint32_t>(first))));
        }
        ++first;
      }
    }
    if (!plain.empty()) choices.push_back(out_.OneOf(std::move(plain)));
    return out_.Choice(std::move(choices));
  }

  const RegexUse use_;
  Expressions& out_;
  std::u32string text_;
  size_t at_ = 0;
  bool valid_ = true;
  char wide_ = 0;  // the widest shorthand in the class being read: \w, \d or \s
};

}  // namespace

Result<ExprId> ParseRegex(std::string_view pattern, RegexUse use, Expressions& out) {
  return RegexParser(pattern, use, out).Run();
}

ExprId JsonStringCharacter(Expressions& out) {
  const auto hex = [&] { return out.OneOf({{'0', '9'}, {'a', 'f'}, {'A', 'F'}}); };
  const ExprId plain = out.OneOf({{' ', '!'}, {'#', '['}, {']', 0x10FFFF}});
  const ExprId letter = out.OneOf(
      {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}});
  // \uD800 to \uDFFF alone are no characters.
  const ExprId not_d = out.Sequence(
      {out.OneOf({{'0', '9'}, {'a', 'c'}, {'e', 'f'}, {'A', 'C'}, {'E', 'F'}}), hex(), hex(), hex()});
  const ExprId low_d =
      out.Sequence({out.OneOf({{'d', 'd'}, {'D', 'D'}}), out.OneOf({{'0', '7'}}), hex(), hex()});
  const ExprId code = out.Sequence({out.Bytes("u"), out.Choice({not_d, low_d})});
  return out.Choice({plain, out.Sequence({out.Bytes("\\"), out.Choice({letter, code})})});
}

}  // namespace tidepool::grammar
