#include "models/architectures/script.h"

#include <algorithm>
#include <cstring>

namespace tidepool::architectures {
namespace {

constexpr int32_t kMaxStallMs = 60'000;
constexpr int32_t kMaxCount = 1'000'000;
constexpr std::string_view kEcho = "You said: ";
constexpr std::string_view kFiller = "The tide comes in, the tide goes out. ";

struct Range {
  int32_t begin = 0, end = 0;
  int32_t size() const { return end - begin; }
};

// ---- where the question is, and where the answer begins --------------------------------------------

struct Exchange {
  Range question;
  int32_t answer = -1;  // index of the answer's first token; -1: no turn of the assistant is open
  bool chat = false;
};

bool BeginsTurn(const TokenHistory& history, int32_t i) {
  if (history[i] != kTurnBegin) return false;
  for (const std::string_view role : {"user\n", "assistant\n", "system\n", "developer\n", "tool\n"}) {
    if (history.Reads(i + 1, role)) return true;
  }
  return false;
}

// ChatML: the last user turn, and the assistant turn open after it.
Exchange FindChat(const TokenHistory& history) {
  constexpr std::string_view kUser = "user\n", kAssistant = "assistant\n";
  Exchange exchange{.question = {}, .answer = -1, .chat = true};
  int32_t closed = history.size();  // nearest <|im_end|> after the place looked at
  bool last_turn = true;
  for (int32_t i = history.size() - 1; i >= 0; --i) {
    if (history[i] == kTurnEnd) closed = i;
    if (history[i] != kTurnBegin) continue;
    if (last_turn && history.Reads(i + 1, kAssistant)) {
      exchange.answer = i + 1 + static_cast<int32_t>(kAssistant.size());
    }
    if (BeginsTurn(history, i)) last_turn = false;
    if (history.Reads(i + 1, kUser)) {
      const int32_t begin = i + 1 + static_cast<int32_t>(kUser.size());
      exchange.question = {begin, std::max(begin, closed)};
      break;
    }
  }
  return exchange;
}

// A plain prompt holds no control tokens; the answer begins with <|im_start|>, which has no text and marks
// the border.
Exchange FindExchange(const TokenHistory& history) {
  for (int32_t i = 0; i < history.size(); ++i) {
    if (history[i] != kTurnBegin) continue;
    if (BeginsTurn(history, i)) return FindChat(history);
    return {.question = {0, i}, .answer = i + 1, .chat = false};
  }
  return {.question = {0, history.size()}, .answer = history.size(), .chat = false};
}

// ---- directives ------------------------------------------------------------------------------------

enum class Verb : uint8_t { kNone, kSay, kThink, kRepeat, kTokens, kStallMs, kStallAfter, kFailAfter, kCount };

struct Directive {
  Verb verb = Verb::kNone;
  Range whole;  // with the brackets
  Range text;
  int32_t first = 0, second = 0;
};

struct VerbShape {
  std::string_view name;
  Verb verb;
  int numbers;
  bool text;
};
constexpr VerbShape kVerbs[] = {{"say:", Verb::kSay, 0, true},
                                {"think:", Verb::kThink, 0, true},
                                {"repeat:", Verb::kRepeat, 1, true},
                                {"tokens:", Verb::kTokens, 1, false},
                                {"stall_ms:", Verb::kStallMs, 1, false},
                                {"stall_after:", Verb::kStallAfter, 2, false},
                                {"fail_after:", Verb::kFailAfter, 1, false},
                                {"count:", Verb::kCount, 1, false}};

// Reads digits from `at` up to `end`; false if there are none or too many.
bool ReadNumber(const TokenHistory& history, int32_t& at, int32_t end, int32_t& value) {
  value = 0;
  const int32_t begin = at;
  for (; at < end && history[at] >= '0' && history[at] <= '9'; ++at) {
    value = value * 10 + (history[at] - '0');
    if (value > kMaxCount) return false;
  }
  return at > begin;
}

// "[[verb:...]]" between `open` (the first bracket) and `close` (the first closing one).
Directive ParseDirective(const TokenHistory& history, int32_t open, int32_t close) {
  for (const VerbShape& shape : kVerbs) {
    if (!history.Reads(open + 2, shape.name)) continue;
    Directive d{.verb = shape.verb, .whole = {open, close + 2}, .text = {}};
    int32_t at = open + 2 + static_cast<int32_t>(shape.name.size());
    bool well_formed = true;
    for (int n = 0; n < shape.numbers && well_formed; ++n) {
      const bool last = n + 1 == shape.numbers && !shape.text;
      well_formed = ReadNumber(history, at, close, n == 0 ? d.first : d.second);
      if (well_formed && !last) well_formed = at < close && history[at++] == ':';
    }
    if (shape.text) d.text = {at, close};
    if (well_formed && (shape.text || at == close)) return d;
  }
  return {};
}

// The next directive at or after `from`; kNone when there is none.
Directive NextDirective(const TokenHistory& history, Range question, int32_t from) {
  for (int32_t open = from; open + 3 < question.end; ++open) {
    if (!history.Reads(open, "[[")) continue;
    int32_t close = open + 2;
    while (close + 1 < question.end && !history.Reads(close, "]]")) ++close;
    if (close + 1 >= question.end) break;
    const Directive directive = ParseDirective(history, open, close);
    if (directive.verb != Verb::kNone) return directive;
  }
  return {};
}

template <typename Visit>
void ForEachDirective(const TokenHistory& history, Range question, Visit&& visit) {
  Directive d = NextDirective(history, question, question.begin);
  while (d.verb != Verb::kNone) {
    visit(d);
    d = NextDirective(history, question, d.whole.end);
  }
}

// ---- the answer ------------------------------------------------------------------------------------

// Walks the answer piece by piece until token number `wanted` is found.
class AnswerCursor {
 public:
  AnswerCursor(const TokenHistory& history, int32_t wanted) : history_(history), left_(wanted) {}

  bool found() const { return token_ >= 0; }
  int32_t token() const { return token_; }

  void Control(int32_t token) {
    Piece(1, [&](int32_t) { return token; });
  }
  void Text(Range range, int32_t times = 1) {
    if (range.size() <= 0) return;
    Piece(int64_t{range.size()} * times, [&](int32_t i) { return history_[range.begin + i % range.size()]; });
  }
  void Literal(std::string_view text) {
    Piece(std::ssize(text), [&](int32_t i) { return static_cast<uint8_t>(text[static_cast<size_t>(i)]); });
  }
  void Filler(int32_t tokens) {
    Piece(tokens,
          [](int32_t i) { return static_cast<uint8_t>(kFiller[static_cast<size_t>(i) % kFiller.size()]); });
  }

 private:
  template <typename TokenAt>
  void Piece(int64_t length, TokenAt&& token_at) {
    if (found()) return;
    if (left_ < length) {
      token_ = token_at(static_cast<int32_t>(left_));
    } else {
      left_ -= length;
    }
  }

  const TokenHistory& history_;
  int64_t left_;
  int32_t token_ = -1;
};

bool Speaks(Verb verb) { return verb == Verb::kSay || verb == Verb::kRepeat || verb == Verb::kTokens; }

// The user's text without its directives.
void Echo(const TokenHistory& history, Range question, AnswerCursor& cursor) {
  cursor.Literal(kEcho);
  int32_t at = question.begin;
  ForEachDirective(history, question, [&](const Directive& d) {
    cursor.Text({at, d.whole.begin});
    at = d.whole.end;
  });
  cursor.Text({at, question.end});
}

int32_t AnswerToken(const TokenHistory& history, Range question, int32_t number) {
  AnswerCursor cursor(history, number);
  bool speaks = false;
  ForEachDirective(history, question, [&](const Directive& d) {
    speaks = speaks || Speaks(d.verb);
    if (d.verb != Verb::kThink) return;
    cursor.Control(kThinkBegin);
    cursor.Text(d.text);
    cursor.Control(kThinkEnd);
  });
  if (!speaks) Echo(history, question, cursor);
  ForEachDirective(history, question, [&](const Directive& d) {
    if (d.verb == Verb::kSay) cursor.Text(d.text);
    if (d.verb == Verb::kRepeat) cursor.Text(d.text, d.first);
    if (d.verb == Verb::kTokens) cursor.Filler(d.first);
  });
  return cursor.found() ? cursor.token() : kTurnEnd;
}

}  // namespace

int32_t TokenHistory::operator[](int32_t index) const {
  if (index < 0 || index >= size_) return kBrokenToken;
  const std::byte* const block = blocks_[index / chips::kKvBlockTokens];
  const size_t slot = static_cast<size_t>(index % chips::kKvBlockTokens) * sizeof(float);
  float id = 0, position = 0;
  std::memcpy(&id, block + layout_.key_offset(0, 0) + slot, sizeof id);
  std::memcpy(&position, block + layout_.value_offset(0, 0) + slot, sizeof position);
  // Positions are stored plus one, so that a zeroed block is not mistaken for position 0.
  const bool own = position == static_cast<float>(index + 1) && id >= 0 && id < kScriptVocab;
  return own ? static_cast<int32_t>(id) : kBrokenToken;
}

void TokenHistory::Write(int32_t index, int32_t token, int32_t position) const {
  std::byte* const block = blocks_[index / chips::kKvBlockTokens];
  const size_t slot = static_cast<size_t>(index % chips::kKvBlockTokens) * sizeof(float);
  const auto id = static_cast<float>(token), place = static_cast<float>(position + 1);
  std::memcpy(block + layout_.key_offset(0, 0) + slot, &id, sizeof id);
  std::memcpy(block + layout_.value_offset(0, 0) + slot, &place, sizeof place);
}

bool TokenHistory::Reads(int32_t index, std::string_view literal) const {
  for (size_t i = 0; i < literal.size(); ++i) {
    if ((*this)[index + static_cast<int32_t>(i)] != static_cast<uint8_t>(literal[i])) return false;
  }
  return true;
}

bool TokenHistory::Intact() const {
  for (int32_t i = 0; i < size_; ++i) {
    if ((*this)[i] == kBrokenToken) return false;
  }
  return true;
}

int32_t TallyTag(const TokenHistory& history) {
  for (int32_t open = 0; open + 3 < history.size(); ++open) {
    if (history[open] != '[' || !history.Reads(open, "[[count:")) continue;
    int32_t close = open + 2;
    while (close + 1 < history.size() && !history.Reads(close, "]]")) ++close;
    if (close + 1 >= history.size()) return -1;
    const Directive directive = ParseDirective(history, open, close);
    if (directive.verb == Verb::kCount) return directive.first;
  }
  return -1;
}

ScriptedToken NextScriptedToken(const TokenHistory& history) {
  ScriptedToken next;
  if (!history.Intact()) {
    next.failed = true;
    return next;
  }
  const Exchange exchange = FindExchange(history);
  if (exchange.answer < 0) return next;  // nobody asked the assistant: the answer is empty
  // A plain prompt's answer begins with the marker, then its own tokens.
  const bool marker =
      !exchange.chat && exchange.answer == history.size() && history[history.size() - 1] != kTurnBegin;
  if (marker) {
    next.token = kTurnBegin;
    return next;
  }
  const int32_t number = history.size() - exchange.answer;
  ForEachDirective(history, exchange.question, [&](const Directive& d) {
    if (d.verb == Verb::kStallMs) next.stall_ms += d.first;
    if (d.verb == Verb::kStallAfter && number == d.first) next.stall_ms += d.second;
    if (d.verb == Verb::kFailAfter && number >= d.first) next.failed = true;
  });
  next.stall_ms = std::min(next.stall_ms, kMaxStallMs);
  next.token = AnswerToken(history, exchange.question, number);
  return next;
}

}  // namespace tidepool::architectures
