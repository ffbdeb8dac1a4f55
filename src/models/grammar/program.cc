#include "models/grammar/program.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

namespace tidepool::grammar {
namespace {

constexpr size_t kMaxNodes = 1'000'000;
constexpr int32_t kMaxUnrolled = 3;  // counted repetitions of at most so many are written out
constexpr int kMaxNesting = 2000;    // of expressions, for the recursions below

struct Utf8Range {
  uint8_t first[4], last[4];
  int size = 0;
};

int Utf8Size(char32_t c) { return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4; }

void Utf8Bytes(char32_t c, uint8_t* out) {
  switch (Utf8Size(c)) {
    case 1: out[0] = static_cast<uint8_t>(c); break;
    case 2:
      out[0] = static_cast<uint8_t>(0xC0 | c >> 6);
      out[1] = static_cast<uint8_t>(0x80 | (c & 0x3F));
      break;
    case 3:
      out[0] = static_cast<uint8_t>(0xE0 | c >> 12);
      out[1] = static_cast<uint8_t>(0x80 | (c >> 6 & 0x3F));
      out[2] = static_cast<uint8_t>(0x80 | (c & 0x3F));
      break;
    default:
      out[0] = static_cast<uint8_t>(0xF0 | c >> 18);
      out[1] = static_cast<uint8_t>(0x80 | (c >> 12 & 0x3F));
      out[2] = static_cast<uint8_t>(0x80 | (c >> 6 & 0x3F));
      out[3] = static_cast<uint8_t>(0x80 | (c & 0x3F));
  }
}

// Cuts a range of characters into ranges whose bytes vary independently (as in Russ Cox's RE2).
void SplitUtf8(char32_t first, char32_t last, std::vector<Utf8Range>& out) {
  for (const char32_t edge : {char32_t{0x7F}, char32_t{0x7FF}, char32_t{0xFFFF}}) {
    if (first <= edge && last > edge) {
      SplitUtf8(first, edge, out);
      return SplitUtf8(edge + 1, last, out);
    }
  }
  for (int i = 1; i < Utf8Size(first); ++i) {
    const char32_t mask = (char32_t{1} << (6 * i)) - 1;
    if ((first & ~mask) == (last & ~mask)) continue;
    if ((first & mask) != 0) {
      SplitUtf8(first, first | mask, out);
      return SplitUtf8((first | mask) + 1, last, out);
    }
    if ((last & mask) != mask) {
      SplitUtf8(first, (last & ~mask) - 1, out);
      return SplitUtf8(last & ~mask, last, out);
    }
  }
  Utf8Range range;
  range.size = Utf8Size(first);
  Utf8Bytes(first, range.first);
  Utf8Bytes(last, range.last);
  out.push_back(range);
}

class Compiler {
 public:
  Compiler(const Expressions& in, Program& out) : in_(in), out_(out) {}

  Status Run(ExprId root) {
    if (in_.overflow()) return TooLarge();
    TP_TRY(CheckNesting());
    FindProductive();
    FindNullable();
    TP_TRY(CheckLeftRecursion());
    if (!Productive(root)) {
      return Fail(ErrorKind::kInvalid, "unsatisfiable", "no text can satisfy it");
    }
    out_.nodes.push_back({});  // kReturnNode
    out_.rule_starts.assign(in_.rules().size(), Program::kReturnNode);
    out_.start = Emit(root, Program::kReturnNode);
    for (size_t rule = 0; rule < in_.rules().size(); ++rule) {
      if (rule_productive_[rule]) out_.rule_starts[rule] = Emit(in_.rules()[rule], Program::kReturnNode);
    }
    if (out_.nodes.size() > kMaxNodes) return TooLarge();
    ClassifyBytes();
    return {};
  }

 private:
  static tl::unexpected<Error> TooLarge() {
    return Fail(ErrorKind::kInvalid, "grammar_too_large",
                "it is too large once its parts are written out; make it smaller or split the request");
  }

  // Expressions are built bottom up, so a child has a smaller id, except behind rules.
  Status CheckNesting() {
    std::vector<int> depth(in_.size(), 0);
    for (size_t i = 0; i < in_.size(); ++i) {
      for (const ExprId child : in_.at(static_cast<ExprId>(i)).children) {
        depth[i] = std::max(depth[i], depth[static_cast<size_t>(child)] + 1);
      }
      if (depth[i] > kMaxNesting) {
        return Fail(ErrorKind::kInvalid, "grammar_too_deep",
                    fmt::format("it is nested deeper than {} levels", kMaxNesting));
      }
    }
    return {};
  }

  // `change` looks at one expression and says whether it has just become true. Back and forth: grammars are
  // chains of rules in one order or the other, so that few rounds are enough.
  template <typename Change>
  void Fixpoint(const Change& change, std::vector<bool>& of_rules) {
    const size_t count = in_.size();
    bool changed = true;
    for (bool forward = true; changed; forward = !forward) {
      changed = false;
      for (size_t n = 0; n < count; ++n) {
        const size_t i = forward ? n : count - 1 - n;
        if (!change(i)) continue;
        changed = true;
        for (const RuleId rule : rules_of_[i]) of_rules[static_cast<size_t>(rule)] = true;
      }
    }
  }

  void FindProductive() {
    productive_.assign(in_.size(), false);
    nullable_.assign(in_.size(), false);
    rule_productive_.assign(in_.rules().size(), false);
    rule_nullable_.assign(in_.rules().size(), false);
    rules_of_.assign(in_.size(), {});
    for (size_t r = 0; r < in_.rules().size(); ++r) {
      rules_of_[static_cast<size_t>(in_.rules()[r])].push_back(static_cast<RuleId>(r));
    }
    Fixpoint(
        [&](size_t i) {
          if (productive_[i]) return false;
          const Expr& e = in_.at(static_cast<ExprId>(i));
          const auto good = [&](ExprId child) { return Productive(child); };
          switch (e.kind) {
            case Expr::Kind::kNever: break;
            case Expr::Kind::kSequence:
              productive_[i] = std::all_of(e.children.begin(), e.children.end(), good);
              break;
            case Expr::Kind::kChoice:
              productive_[i] = std::any_of(e.children.begin(), e.children.end(), good);
              break;
            case Expr::Kind::kRepeat: productive_[i] = e.min == 0 || Productive(e.children[0]); break;
            case Expr::Kind::kRule: productive_[i] = rule_productive_[static_cast<size_t>(e.rule)]; break;
            default: productive_[i] = true;
          }
          return static_cast<bool>(productive_[i]);
        },
        rule_productive_);
  }

  void FindNullable() {
    Fixpoint(
        [&](size_t i) {
          if (nullable_[i]) return false;
          const Expr& e = in_.at(static_cast<ExprId>(i));
          const auto empty = [&](ExprId child) { return Nullable(child); };
          switch (e.kind) {
            case Expr::Kind::kEmpty: nullable_[i] = true; break;
            case Expr::Kind::kSequence:
              nullable_[i] = std::all_of(e.children.begin(), e.children.end(), empty);
              break;
            case Expr::Kind::kChoice:
              nullable_[i] = std::any_of(e.children.begin(), e.children.end(), empty);
              break;
            case Expr::Kind::kRepeat: nullable_[i] = e.min == 0 || Nullable(e.children[0]); break;
            case Expr::Kind::kRule: nullable_[i] = rule_nullable_[static_cast<size_t>(e.rule)]; break;
            default: break;
          }
          return static_cast<bool>(nullable_[i]);
        },
        rule_nullable_);
  }

  // Rules that an expression may call before it takes a byte.
  void FirstRules(ExprId id, std::vector<RuleId>& out) const {
    const Expr& e = in_.at(id);
    if (!Productive(id)) return;
    switch (e.kind) {
      case Expr::Kind::kRule: out.push_back(e.rule); break;
      case Expr::Kind::kRepeat: FirstRules(e.children[0], out); break;
      case Expr::Kind::kChoice:
        for (const ExprId child : e.children) FirstRules(child, out);
        break;
      case Expr::Kind::kSequence:
        for (const ExprId child : e.children) {
          FirstRules(child, out);
          if (!Nullable(child)) break;
        }
        break;
      default: break;
    }
  }

  Status CheckLeftRecursion() const {
    const size_t count = in_.rules().size();
    std::vector<std::vector<RuleId>> first(count);
    for (size_t r = 0; r < count; ++r) FirstRules(in_.rules()[r], first[r]);
    std::vector<uint8_t> state(count, 0);  // 1: on the path, 2: done
    for (size_t root = 0; root < count; ++root) {
      if (state[root] != 0) continue;
      std::vector<std::pair<size_t, size_t>> path{{root, 0}};
      state[root] = 1;
      while (!path.empty()) {
        auto& [rule, next] = path.back();
        if (next == first[rule].size()) {
          state[rule] = 2;
          path.pop_back();
          continue;
        }
        const auto called = static_cast<size_t>(first[rule][next++]);
        if (state[called] == 1) {
          return Fail(
              ErrorKind::kInvalid, "left_recursion",
              fmt::format("{} refers to itself before it says anything; let it end with itself instead",
                          in_.rule_name(static_cast<RuleId>(called))));
        }
        if (state[called] == 0) {
          state[called] = 1;
          path.emplace_back(called, 0);
        }
      }
    }
    return {};
  }

  // ---- nodes

  int32_t Add(Node node) {
    if (out_.nodes.size() > kMaxNodes) return Program::kReturnNode;  // told at the end
    out_.nodes.push_back(node);
    return static_cast<int32_t>(out_.nodes.size()) - 1;
  }
  int32_t AddChars(const std::bitset<256>& set, int32_t next, bool json_string = false) {
    const auto [entry, fresh] = set_ids_.try_emplace(set, static_cast<int32_t>(out_.sets.size()));
    if (fresh) out_.sets.push_back(set);
    return Add({.kind = Node::Kind::kChars, .json_string = json_string, .what = entry->second, .next = next});
  }
  int32_t AddSplit(const std::vector<int32_t>& targets) {
    if (targets.size() == 1) return targets[0];
    const auto first = static_cast<int32_t>(out_.targets.size());
    out_.targets.insert(out_.targets.end(), targets.begin(), targets.end());
    return Add({.kind = Node::Kind::kSplit, .what = first, .next = static_cast<int32_t>(targets.size())});
  }

  int32_t EmitOneOf(const std::vector<Range>& ranges, int32_t next) {
    std::vector<Utf8Range> parts;
    for (const Range& range : ranges) SplitUtf8(range.first, range.last, parts);
    std::bitset<256> single;
    std::vector<int32_t> targets;
    for (const Utf8Range& part : parts) {
      if (part.size == 1) {
        for (int b = part.first[0]; b <= part.last[0]; ++b) single.set(static_cast<size_t>(b));
        continue;
      }
      int32_t at = next;
      for (int i = part.size - 1; i >= 0; --i) {
        std::bitset<256> set;
        for (int b = part.first[i]; b <= part.last[i]; ++b) set.set(static_cast<size_t>(b));
        at = AddChars(set, at);
      }
      targets.push_back(at);
    }
    if (single.any())
      targets.push_back(AddChars(single, next, in_json_string_ && single[' '] && single['a']));
    return AddSplit(targets);
  }

  // The node where `id` begins, after which `next` follows.
  int32_t Emit(ExprId id, int32_t next) {
    if (out_.nodes.size() > kMaxNodes) return next;
    const Expr& e = in_.at(id);
    switch (e.kind) {
      case Expr::Kind::kNever:
      case Expr::Kind::kEmpty: return next;
      case Expr::Kind::kBytes:
        for (size_t i = e.bytes.size(); i > 0; --i) {
          std::bitset<256> set;
          set.set(static_cast<unsigned char>(e.bytes[i - 1]));
          next = AddChars(set, next);
        }
        return next;
      case Expr::Kind::kOneOf: return EmitOneOf(e.ranges, next);
      case Expr::Kind::kSequence:
        for (size_t i = e.children.size(); i > 0; --i) next = Emit(e.children[i - 1], next);
        return next;
      case Expr::Kind::kChoice: {
        std::vector<int32_t> targets;
        for (const ExprId child : e.children) {
          if (Productive(child)) targets.push_back(Emit(child, next));
        }
        return AddSplit(targets);
      }
      case Expr::Kind::kRepeat: return EmitRepeat(e, next);
      case Expr::Kind::kRule: return Add({.kind = Node::Kind::kCall, .what = e.rule, .next = next});
    }
    return next;
  }

  int32_t EmitRepeat(const Expr& e, int32_t next) {
    const ExprId child = e.children[0];
    if (!Productive(child)) return next;
    const bool empty = Nullable(child);
    const int32_t min = empty ? 0 : e.min;
    if (e.json_string) {
      const bool outer = in_json_string_;
      in_json_string_ = true;
      const int32_t body = Emit(child, Program::kReturnNode);
      in_json_string_ = outer;
      return Add({.kind = Node::Kind::kRepeat, .what = body, .next = next, .min = min, .max = e.max});
    }
    if (e.max == kUnbounded && min <= 1) {
      const int32_t loop = Add({.kind = Node::Kind::kSplit});
      const int32_t body = Emit(child, loop);
      const auto first = static_cast<int32_t>(out_.targets.size());
      out_.targets.push_back(body);
      out_.targets.push_back(next);
      out_.nodes[static_cast<size_t>(loop)].what = first;
      out_.nodes[static_cast<size_t>(loop)].next = 2;
      return min == 0 ? loop : body;
    }
    if (e.max != kUnbounded && e.max <= kMaxUnrolled) {
      const int32_t after = next;
      for (int32_t i = e.max; i > 0; --i) {
        const int32_t one = Emit(child, next);
        next = i > min ? AddSplit({one, after}) : one;
      }
      return next;
    }
    const int32_t body = Emit(child, Program::kReturnNode);
    return Add({.kind = Node::Kind::kRepeat, .what = body, .next = next, .min = min, .max = e.max});
  }

  void ClassifyBytes() {
    // Bytes are told apart set by set.
    std::map<std::pair<int32_t, bool>, int32_t> ids;
    std::array<int32_t, 256> current{};
    for (const std::bitset<256>& set : out_.sets) {
      ids.clear();
      for (size_t b = 0; b < 256; ++b) {
        const auto key = std::make_pair(current[b], set[b]);
        current[b] = ids.try_emplace(key, static_cast<int32_t>(ids.size())).first->second;
      }
    }
    for (size_t b = 0; b < 256; ++b) {
      out_.byte_class[b] = static_cast<uint8_t>(current[b]);
      out_.classes = std::max(out_.classes, current[b] + 1);
    }
  }

  bool Productive(ExprId id) const { return productive_[static_cast<size_t>(id)]; }
  bool Nullable(ExprId id) const { return nullable_[static_cast<size_t>(id)]; }

  struct SetHash {
    size_t operator()(const std::bitset<256>& set) const { return std::hash<std::bitset<256>>()(set); }
  };

  const Expressions& in_;
  Program& out_;
  std::vector<std::vector<RuleId>> rules_of_;  // [expression]: rules it defines
  std::vector<bool> productive_, nullable_, rule_productive_, rule_nullable_;
  std::unordered_map<std::bitset<256>, int32_t, SetHash> set_ids_;
  bool in_json_string_ = false;
};

}  // namespace

uint64_t Program::bytes() const {
  return nodes.size() * sizeof(Node) + targets.size() * sizeof(int32_t) +
         rule_starts.size() * sizeof(int32_t) + sets.size() * sizeof(sets[0]);
}

Result<Program> Compile(const Expressions& expressions, ExprId root) {
  Program program;
  TP_TRY(Compiler(expressions, program).Run(root));
  return program;
}

}  // namespace tidepool::grammar
