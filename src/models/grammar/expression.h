// Grammars as expressions: what the front ends (JSON schema, regular expressions, GBNF) build.
//
// All expressions of a grammar live in one arena with a bound; an arena that is full says so at the end
// (overflow), so that builders need not look after every call.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::grammar {

using ExprId = int32_t;
using RuleId = int32_t;
inline constexpr int32_t kUnbounded = -1;

struct Range {
  char32_t first = 0, last = 0;  // inclusive
};
// Sorted, without overlaps, inside Unicode and without surrogates.
std::vector<Range> Normalised(std::vector<Range> ranges);
std::vector<Range> Complement(std::vector<Range> ranges);

struct Expr {
  enum class Kind : uint8_t { kNever, kEmpty, kBytes, kOneOf, kSequence, kChoice, kRepeat, kRule };
  Kind kind = Kind::kNever;
  bool json_string = false;  // kRepeat of the characters of a JSON string without a pattern: masks know them
  int32_t min = 0, max = 0;  // kRepeat; max may be kUnbounded
  RuleId rule = 0;
  std::string bytes{};
  std::vector<Range> ranges{};  // one character, as UTF-8
  std::vector<ExprId> children{};
};

class Expressions {
 public:
  explicit Expressions(size_t most = 200'000) : most_(most) {}

  ExprId Never();
  ExprId Empty();
  ExprId Bytes(std::string_view bytes);
  ExprId OneOf(std::vector<Range> ranges);
  ExprId Sequence(std::vector<ExprId> children);
  ExprId Choice(std::vector<ExprId> children);
  ExprId Repeat(ExprId child, int32_t min, int32_t max, bool json_string = false);
  ExprId Optional(ExprId child) { return Repeat(child, 0, 1); }
  // One of these texts.
  ExprId Strings(std::vector<std::string> strings);
  // Any text in which none of `stops` (at least one; of at least one character each) occurs.
  ExprId TextWithout(std::span<const std::u32string_view> stops);
  ExprId TextWithout(std::u32string_view stop) { return TextWithout(std::span(&stop, 1)); }

  RuleId AddRule(std::string name);
  void Define(RuleId rule, ExprId expr) { rules_[static_cast<size_t>(rule)] = expr; }
  ExprId Rule(RuleId rule);

  bool IsNever(ExprId id) const { return at(id).kind == Expr::Kind::kNever; }
  const Expr& at(ExprId id) const { return expressions_[static_cast<size_t>(id)]; }
  size_t size() const { return expressions_.size(); }
  std::span<const ExprId> rules() const { return rules_; }
  const std::string& rule_name(RuleId rule) const { return names_[static_cast<size_t>(rule)]; }
  bool overflow() const { return overflow_; }

 private:
  ExprId Add(Expr expr);
  ExprId StringsFrom(std::span<const std::string> sorted, size_t at);

  const size_t most_;
  size_t bytes_ = 0;
  bool overflow_ = false;
  std::vector<Expr> expressions_;
  std::vector<ExprId> rules_;
  std::vector<std::string> names_;
};

}  // namespace tidepool::grammar
