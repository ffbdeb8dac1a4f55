#include "models/text/pretokenizer.h"

#include <utility>

#include "models/text/byte_alphabet.h"
#include "models/text/unicode.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

// One stretch of a span, matched by the split's pattern or between two matches.
struct Cut {
  size_t begin, end;
  bool matched;
};

void CutsOf(const std::vector<Match>& matches, size_t size, bool invert, std::vector<Cut>& cuts) {
  cuts.clear();
  size_t end = 0;
  for (const Match& match : matches) {
    if (match.begin > end) cuts.push_back({end, match.begin, invert});
    cuts.push_back({match.begin, match.end, !invert});
    end = match.end;
  }
  if (end < size) cuts.push_back({end, size, invert});
}

// Joins cuts as the behaviour says; the folds are those of Hugging Face's NormalizedString::split.
void Join(SplitBehavior behavior, std::vector<Cut>& cuts) {
  std::vector<Cut> joined;
  bool previous = false;
  switch (behavior) {
    case SplitBehavior::kIsolated: return;
    case SplitBehavior::kRemoved:
      for (const Cut& cut : cuts) {
        if (!cut.matched) joined.push_back(cut);
      }
      break;
    case SplitBehavior::kContiguous:
      for (const Cut& cut : cuts) {
        if (cut.matched == previous && !joined.empty()) {
          joined.back().end = cut.end;
        } else {
          joined.push_back(cut);
        }
        previous = cut.matched;
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      for (const Cut& cut : cuts) {
        if (cut.matched && !previous && !joined.empty()) {
          joined.back().end = cut.end;
        } else {
          joined.push_back(cut);
        }
        previous = cut.matched;
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (size_t i = cuts.size(); i-- > 0;) {
        if (cuts[i].matched && !previous && !joined.empty()) {
          joined.back().begin = cuts[i].begin;
        } else {
          joined.push_back(cuts[i]);
        }
        previous = cuts[i].matched;
      }
      cuts.assign(joined.rbegin(), joined.rend());
      return;
  }
  cuts = std::move(joined);
}

// Cuts every span where `find(text, matches)` matches in it.
template <typename FindAll>
void SplitSpans(Pieces& pieces, SplitBehavior behavior, bool invert, FindAll&& find_all) {
  std::vector<Span> spans;
  std::vector<Match> matches;
  std::vector<Cut> cuts;
  spans.reserve(pieces.text.size() / 4 + 1);
  bool first = true;
  for (const Span& span : pieces.spans) {
    matches.clear();
    find_all(pieces.At(span), matches);
    CutsOf(matches, span.size, invert, cuts);
    Join(behavior, cuts);
    if (first && (cuts.empty() || cuts[0].begin != 0)) pieces.starts_text = false;
    first = false;
    for (const Cut& cut : cuts) {
      if (cut.end > cut.begin) spans.push_back({span.begin + cut.begin, cut.end - cut.begin});
    }
  }
  pieces.spans = std::move(spans);
}

class PatternSplit final : public PreTokenizer {
 public:
  PatternSplit(SplitPattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void Apply(Pieces& pieces) const override {
    SplitSpans(pieces, behavior_, invert_,
               [&](std::string_view text, std::vector<Match>& matches) { pattern_.FindAll(text, matches); });
  }

 private:
  SplitPattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Every character that `matches` is a match of its own.
template <typename Matches>
void SplitCharacters(Pieces& pieces, SplitBehavior behavior, Matches&& matches) {
  SplitSpans(pieces, behavior, false, [&](std::string_view text, std::vector<Match>& found) {
    for (size_t i = 0; i < text.size();) {
      const Character character = ReadValidCharacter(text, i);
      if (matches(character.code)) found.push_back({i, i + character.size});
      i += character.size;
    }
  });
}

class CharacterSplit final : public PreTokenizer {
 public:
  CharacterSplit(bool (*matches)(uint32_t), SplitBehavior behavior)
      : matches_(matches), behavior_(behavior) {}
  void Apply(Pieces& pieces) const override { SplitCharacters(pieces, behavior_, matches_); }

 private:
  bool (*matches_)(uint32_t);
  SplitBehavior behavior_;
};

class DelimiterSplit final : public PreTokenizer {
 public:
  explicit DelimiterSplit(uint32_t delimiter) : delimiter_(delimiter) {}
  void Apply(Pieces& pieces) const override {
    SplitCharacters(pieces, SplitBehavior::kRemoved, [this](uint32_t code) { return code == delimiter_; });
  }

 private:
  uint32_t delimiter_;
};

class WordSplit final : public PreTokenizer {
 public:
  void Apply(Pieces& pieces) const override {
    SplitSpans(pieces, SplitBehavior::kRemoved, true, [](std::string_view text, std::vector<Match>& found) {
      enum class Kind { kSpace, kWord, kOther };
      Kind previous = Kind::kSpace;
      for (size_t i = 0; i < text.size();) {
        const Character character = ReadValidCharacter(text, i);
        const Kind kind = IsWordCharacter(character.code) ? Kind::kWord
                          : IsWhitespace(character.code)  ? Kind::kSpace
                                                          : Kind::kOther;
        if (kind != Kind::kSpace) {
          if (kind == previous) {
            found.back().end = i + character.size;
          } else {
            found.push_back({i, i + character.size});
          }
        }
        previous = kind;
        i += character.size;
      }
    });
  }
};

class FixedLength final : public PreTokenizer {
 public:
  explicit FixedLength(size_t characters) : characters_(characters) {}
  void Apply(Pieces& pieces) const override {
    SplitSpans(pieces, SplitBehavior::kIsolated, false,
               [this](std::string_view text, std::vector<Match>& found) {
                 size_t begin = 0, count = 0;
                 for (size_t i = 0; i < text.size();) {
                   i += ReadValidCharacter(text, i).size;
                   if (++count == characters_ || i == text.size()) {
                     found.push_back({begin, i});
                     begin = i;
                     count = 0;
                   }
                 }
               });
  }

 private:
  size_t characters_;
};

// Writes every span anew: `write(out, text, first)` appends what becomes of it.
template <typename Write>
void RewriteSpans(Pieces& pieces, Write&& write) {
  std::string text;
  text.reserve(pieces.text.size() * 2);
  bool first = true;
  for (Span& span : pieces.spans) {
    const size_t begin = text.size();
    write(text, pieces.At(span), first);
    span = {begin, text.size() - begin};
    first = false;
  }
  pieces.text = std::move(text);
}

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(ByteLevelSplit options, SplitPattern pattern) : options_(options), pattern_(std::move(pattern)) {}
  void Apply(Pieces& pieces) const override {
    if (options_.add_prefix_space) {
      RewriteSpans(pieces, [](std::string& out, std::string_view text, bool) {
        if (!text.starts_with(' ')) out += ' ';
        out += text;
      });
    }
    if (options_.use_regex) {
      SplitSpans(
          pieces, SplitBehavior::kIsolated, false,
          [&](std::string_view text, std::vector<Match>& matches) { pattern_.FindAll(text, matches); });
    }
    if (options_.spell_bytes) {
      RewriteSpans(pieces,
                   [](std::string& out, std::string_view text, bool) { out += BytesToAlphabet(text); });
    }
  }

 private:
  ByteLevelSplit options_;
  SplitPattern pattern_;
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(MetaspaceSplit options)
      : options_(std::move(options)), pattern_(SplitPattern::Literal(options_.replacement)) {}
  void Apply(Pieces& pieces) const override {
    const bool starts_text = pieces.starts_text;
    RewriteSpans(pieces, [&](std::string& out, std::string_view text, bool first) {
      const bool prepends = options_.prepend == PrependScheme::kAlways ||
                            (options_.prepend == PrependScheme::kFirst && first && starts_text);
      if (prepends && !text.starts_with(' ') && !text.starts_with(options_.replacement))
        out += options_.replacement;
      for (const char c : text) {
        if (c == ' ') {
          out += options_.replacement;
        } else {
          out += c;
        }
      }
    });
    if (!options_.split) return;
    SplitSpans(pieces, SplitBehavior::kMergedWithNext, false,
               [&](std::string_view text, std::vector<Match>& matches) { pattern_.FindAll(text, matches); });
    pieces.starts_text = starts_text;
  }

 private:
  MetaspaceSplit options_;
  SplitPattern pattern_;
};

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(std::vector<PreTokenizerPointer> steps) : steps_(std::move(steps)) {}
  void Apply(Pieces& pieces) const override {
    for (const auto& step : steps_) step->Apply(pieces);
  }

 private:
  std::vector<PreTokenizerPointer> steps_;
};

}  // namespace

PreTokenizerPointer MakePatternSplit(SplitPattern pattern, SplitBehavior behavior, bool invert) {
  return std::make_unique<PatternSplit>(std::move(pattern), behavior, invert);
}

PreTokenizerPointer MakePreTokenizerSequence(std::vector<PreTokenizerPointer> steps) {
  return std::make_unique<Sequence>(std::move(steps));
}

PreTokenizerPointer MakeCharacterSplit(bool (*matches)(uint32_t), SplitBehavior behavior) {
  return std::make_unique<CharacterSplit>(matches, behavior);
}

PreTokenizerPointer MakeDelimiterSplit(uint32_t delimiter) {
  return std::make_unique<DelimiterSplit>(delimiter);
}
PreTokenizerPointer MakeWordSplit() { return std::make_unique<WordSplit>(); }
PreTokenizerPointer MakeFixedLength(size_t characters) { return std::make_unique<FixedLength>(characters); }

Result<PreTokenizerPointer> MakeByteLevel(ByteLevelSplit options) {
  TP_ASSIGN(SplitPattern pattern, SplitPattern::Compile("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                                                        " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"));
  return PreTokenizerPointer(std::make_unique<ByteLevel>(options, std::move(pattern)));
}

PreTokenizerPointer MakeMetaspace(MetaspaceSplit options) {
  return std::make_unique<Metaspace>(std::move(options));
}

}  // namespace tidepool::text
