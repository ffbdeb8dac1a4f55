#include "models/grammar/expression.h"

#include <algorithm>

namespace tidepool::grammar {
namespace {

constexpr size_t kMaxBytes = 8 << 20;  // of texts, ranges and lists of children together

}  // namespace

std::vector<Range> Normalised(std::vector<Range> ranges) {
  std::vector<Range> clean;
  for (Range range : ranges) {
    range.last = std::min<char32_t>(range.last, 0x10FFFF);
    // Surrogates are no characters.
    if (range.first < 0xD800 && range.last >= 0xD800) {
      if (range.last > 0xDFFF) clean.push_back({0xE000, range.last});
      range.last = 0xD7FF;
    } else if (range.first >= 0xD800 && range.first <= 0xDFFF) {
      range.first = 0xE000;
    }
    if (range.first <= range.last) clean.push_back(range);
  }
  std::sort(clean.begin(), clean.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> out;
  for (const Range& range : clean) {
    if (!out.empty() && range.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, range.last);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

std::vector<Range> Complement(std::vector<Range> ranges) {
  ranges = Normalised(std::move(ranges));
  std::vector<Range> out;
  char32_t next = 0;
  for (const Range& range : ranges) {
    if (range.first > next) out.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= 0x10FFFF) out.push_back({next, 0x10FFFF});
  return Normalised(std::move(out));
}

ExprId Expressions::Add(Expr expr) {
  bytes_ += expr.bytes.size() + expr.ranges.size() * sizeof(Range) + expr.children.size() * sizeof(ExprId);
  if (expressions_.size() >= most_ || bytes_ > kMaxBytes) {
    overflow_ = true;
    if (!expressions_.empty()) return 0;
    expr = Expr{};
  }
  expressions_.push_back(std::move(expr));
  return static_cast<ExprId>(expressions_.size()) - 1;
}

ExprId Expressions::Never() { return Add({.kind = Expr::Kind::kNever}); }
ExprId Expressions::Empty() { return Add({.kind = Expr::Kind::kEmpty}); }

ExprId Expressions::Bytes(std::string_view bytes) {
  if (bytes.empty()) return Empty();
  return Add({.kind = Expr::Kind::kBytes, .bytes = std::string(bytes)});
}

ExprId Expressions::OneOf(std::vector<Range> ranges) {
  ranges = Normalised(std::move(ranges));
  if (ranges.empty()) return Never();
  return Add({.kind = Expr::Kind::kOneOf, .ranges = std::move(ranges)});
}

ExprId Expressions::Sequence(std::vector<ExprId> children) {
  if (std::any_of(children.begin(), children.end(), [&](ExprId id) { return IsNever(id); })) return Never();
  if (children.empty()) return Empty();
  if (children.size() == 1) return children[0];
  return Add({.kind = Expr::Kind::kSequence, .children = std::move(children)});
}

ExprId Expressions::Choice(std::vector<ExprId> children) {
  std::erase_if(children, [&](ExprId id) { return IsNever(id); });
  if (children.empty()) return Never();
  if (children.size() == 1) return children[0];
  return Add({.kind = Expr::Kind::kChoice, .children = std::move(children)});
}

ExprId Expressions::Repeat(ExprId child, int32_t min, int32_t max, bool json_string) {
  if (max == 0 || (IsNever(child) && min == 0)) return Empty();
  if (IsNever(child)) return child;
  if (min == 1 && max == 1) return child;
  return Add(
      {.kind = Expr::Kind::kRepeat, .json_string = json_string, .min = min, .max = max, .children = {child}});
}

ExprId Expressions::Strings(std::vector<std::string> strings) {
  std::sort(strings.begin(), strings.end());
  strings.erase(std::unique(strings.begin(), strings.end()), strings.end());
  return StringsFrom(strings, 0);
}

// Texts that share their first `at` bytes; what they share further is said once.
ExprId Expressions::StringsFrom(std::span<const std::string> sorted, size_t at) {
  std::vector<ExprId> choices;
  for (size_t begin = 0; begin < sorted.size();) {
    if (sorted[begin].size() == at) {
      choices.push_back(Empty());
      ++begin;
      continue;
    }
    size_t end = begin + 1;
    while (end < sorted.size() && sorted[end][at] == sorted[begin][at]) ++end;
    size_t shared = at + 1;
    const std::string& first = sorted[begin];
    const std::string& last = sorted[end - 1];
    while (shared < first.size() && shared < last.size() && first[shared] == last[shared]) ++shared;
    const ExprId prefix = Bytes(std::string_view(first).substr(at, shared - at));
    choices.push_back(Sequence({prefix, StringsFrom(sorted.subspan(begin, end - begin), shared)}));
    begin = end;
  }
  return Choice(std::move(choices));
}

// The automaton of Aho and Corasick without the states in which a stop has occurred, as right-recursive
// rules: one for each beginning of a stop, which is the longest one that the text so far ends with.
ExprId Expressions::TextWithout(std::span<const std::u32string_view> stops) {
  std::vector<std::u32string> beginnings{U""};  // shorter ones first
  size_t longest = 0;
  for (const std::u32string_view stop : stops) longest = std::max(longest, stop.size());
  for (size_t size = 1; size <= longest; ++size) {
    for (const std::u32string_view stop : stops) {
      std::u32string beginning(stop.substr(0, size));
      if (beginning.size() == size &&
          std::find(beginnings.begin(), beginnings.end(), beginning) == beginnings.end())
        beginnings.push_back(std::move(beginning));
    }
  }
  const auto ends = [&](std::u32string_view text) {
    return std::any_of(stops.begin(), stops.end(), [&](auto stop) { return text.ends_with(stop); });
  };
  // The longest beginning that `text` ends with: an index.
  const auto state = [&](std::u32string_view text) {
    size_t best = 0;
    for (size_t i = 0; i < beginnings.size(); ++i) {
      if (text.ends_with(beginnings[i])) best = i;
    }
    return best;
  };
  std::vector<RuleId> rules;
  for (size_t k = 0; k < beginnings.size(); ++k) rules.push_back(AddRule("text"));
  for (size_t k = 0; k < beginnings.size(); ++k) {
    if (ends(beginnings[k])) continue;  // no rule leads here
    std::vector<ExprId> choices{Empty()};
    std::vector<Range> used;  // characters that lead to another rule than the first
    for (const std::u32string& other : beginnings) {
      if (other.empty()) continue;
      const char32_t next = other.back();
      if (std::any_of(used.begin(), used.end(), [&](const Range& range) { return range.first == next; }))
        continue;
      const std::u32string text = beginnings[k] + next;
      const size_t to = state(text);
      if (to == 0) continue;
      used.push_back({next, next});
      if (!ends(text)) choices.push_back(Sequence({OneOf({{next, next}}), Rule(rules[to])}));
    }
    choices.push_back(Sequence({OneOf(Complement(used)), Rule(rules[0])}));
    Define(rules[k], Choice(std::move(choices)));
  }
  return Rule(rules[0]);
}

RuleId Expressions::AddRule(std::string name) {
  if (rules_.size() >= most_) {
    overflow_ = true;
    return 0;
  }
  rules_.push_back(Never());
  names_.push_back(std::move(name));
  return static_cast<RuleId>(rules_.size()) - 1;
}

ExprId Expressions::Rule(RuleId rule) { return Add({.kind = Expr::Kind::kRule, .rule = rule}); }

}  // namespace tidepool::grammar
