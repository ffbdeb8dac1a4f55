#include "models/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "models/text/byte_alphabet.h"
#include "models/text/prefix_trie.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

// Rewrites text character by character: `write(out, code, bytes)` appends what becomes of each.
template <typename Write>
void Rewrite(std::string& text, Write&& write) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  const std::string_view view = text;
  for (size_t i = 0; i < view.size();) {
    const Character character = ReadValidCharacter(view, i);
    write(out, character.code, view.substr(i, character.size));
    i += character.size;
  }
  text = std::move(out);
}

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<NormalizerPointer> steps) : steps_(std::move(steps)) {}
  void Apply(std::string& text) const override {
    for (const auto& step : steps_) step->Apply(text);
  }

 private:
  std::vector<NormalizerPointer> steps_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void Apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  Replace(SplitPattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void Apply(std::string& text) const override {
    std::vector<Match> matches;
    pattern_.FindAll(text, matches);
    if (matches.empty()) return;
    std::string out;
    out.reserve(text.size() + matches.size() * content_.size());
    size_t end = 0;
    for (const Match& match : matches) {
      out.append(text, end, match.begin - end);
      out += content_;
      end = match.end;
    }
    out.append(text, end);
    text = std::move(out);
  }

 private:
  SplitPattern pattern_;
  std::string content_;
};

class Form final : public Normalizer {
 public:
  explicit Form(NormalForm form) : form_(form) {}
  void Apply(std::string& text) const override { NormalizeText(text, form_); }

 private:
  NormalForm form_;
};

class Lowercase final : public Normalizer {
 public:
  void Apply(std::string& text) const override {
    Rewrite(text, [](std::string& out, uint32_t code, std::string_view) { AppendLowercase(out, code); });
  }
};

class StripAccents final : public Normalizer {
 public:
  void Apply(std::string& text) const override {
    if (IsAscii(text)) return;
    Rewrite(text, [](std::string& out, uint32_t code, std::string_view bytes) {
      if (!IsCombiningMark(code)) out += bytes;
    });
  }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void Apply(std::string& text) const override {
    size_t end = text.size();
    while (right_ && end > 0) {
      const size_t previous = PreviousCharacter(text, end);
      if (!IsWhitespace(ReadValidCharacter(text, previous).code)) break;
      end = previous;
    }
    text.resize(end);
    size_t begin = 0;
    while (left_ && begin < end) {
      const Character character = ReadValidCharacter(text, begin);
      if (!IsWhitespace(character.code)) break;
      begin += character.size;
    }
    text.erase(0, begin);
  }

 private:
  bool left_, right_;
};

class Nmt final : public Normalizer {
 public:
  void Apply(std::string& text) const override {
    Rewrite(text, [](std::string& out, uint32_t c, std::string_view bytes) {
      const bool removed = (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
                           c == 0x8F || c == 0x9F;
      if (removed) return;
      const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                         (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                         c == 0xFEFF || c == 0xFFFD;
      out += space ? std::string_view(" ") : bytes;
    });
  }
};

class ByteAlphabet final : public Normalizer {
 public:
  void Apply(std::string& text) const override { text = BytesToAlphabet(text); }
};

class Bert final : public Normalizer {
 public:
  explicit Bert(BertNormalization options) : options_(options) {}
  void Apply(std::string& text) const override {
    if (options_.clean_text) {
      Rewrite(text, [](std::string& out, uint32_t code, std::string_view bytes) {
        // First what goes: to the reference \v, \f and U+0085 are control characters, not white space.
        if (code == 0 || code == 0xFFFD || IsRemovedByClean(code)) return;
        out += IsWhitespace(code) ? std::string_view(" ") : bytes;
      });
    }
    if (options_.handle_chinese_chars && !IsAscii(text)) {
      Rewrite(text, [](std::string& out, uint32_t code, std::string_view bytes) {
        const bool apart = IsBertIdeograph(code);
        if (apart) out += ' ';
        out += bytes;
        if (apart) out += ' ';
      });
    }
    if (options_.strip_accents && !IsAscii(text)) {
      NormalizeText(text, NormalForm::kNfd);
      Rewrite(text, [](std::string& out, uint32_t code, std::string_view bytes) {
        if (!IsNonspacingMark(code)) out += bytes;
      });
    }
    if (options_.lowercase) {
      Rewrite(text, [](std::string& out, uint32_t code, std::string_view) { AppendLowercase(out, code); });
    }
  }

 private:
  BertNormalization options_;
};

class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(Charsmap map) : map_(std::move(map)) {}
  void Apply(std::string& text) const override {
    std::string out;
    out.reserve(text.size() + text.size() / 8);
    const std::string_view view = text;
    for (size_t begin = 0; begin < view.size();) {
      const size_t end = GraphemeEnd(view, begin);
      const std::string_view grapheme = view.substr(begin, end - begin);
      begin = end;
      // Longer graphemes are never looked up whole.
      if (grapheme.size() < 6) {
        if (const auto hit = map_.Shortest(grapheme)) {
          out += hit->replacement;
          continue;
        }
      }
      for (size_t i = 0; i < grapheme.size();) {
        const std::string_view character = grapheme.substr(i, ReadValidCharacter(grapheme, i).size);
        const auto hit = map_.Shortest(character);
        out += hit ? hit->replacement : character;
        i += character.size();
      }
    }
    text = std::move(out);
  }

 private:
  static size_t GraphemeEnd(std::string_view text, size_t begin) {
    Character previous = ReadValidCharacter(text, begin);
    utf8proc_int32_t state = 0;
    size_t end = begin + previous.size;
    while (end < text.size()) {
      const Character next = ReadValidCharacter(text, end);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(previous.code),
                                           static_cast<utf8proc_int32_t>(next.code), &state)) {
        break;
      }
      previous = next;
      end += next.size;
    }
    return end;
  }

  Charsmap map_;
};

class SentencePiece final : public Normalizer {
 public:
  SentencePiece(Charsmap map, SentencePieceSpaces spaces, std::vector<std::string> verbatim)
      : map_(std::move(map)), spaces_(std::move(spaces)), verbatim_(std::move(verbatim)) {
    std::sort(verbatim_.begin(), verbatim_.end());
    std::vector<std::pair<std::string_view, int32_t>> entries;
    for (const std::string& piece : verbatim_) {
      if (entries.empty() || entries.back().first != piece) entries.emplace_back(piece, 0);
    }
    trie_.Build(entries);
  }

  void Apply(std::string& text) const override {
    std::string mapped;
    mapped.reserve(text.size() + text.size() / 8);
    const std::string_view view = text;
    for (size_t i = 0; i < view.size();) {
      size_t kept = 0;
      trie_.ForEachPrefix(view, i, [&](int32_t, size_t bytes) { kept = bytes; });
      if (kept > 0) {
        mapped += view.substr(i, kept);
        i += kept;
      } else if (const auto hit = map_.Longest(view.substr(i))) {
        mapped += hit->replacement;
        i += hit->size;
      } else {
        const size_t size = ReadValidCharacter(view, i).size;
        mapped += view.substr(i, size);
        i += size;
      }
    }
    text = Spaced(mapped);
  }

 private:
  std::string Spaced(const std::string& mapped) const {
    std::string out;
    bool in_word = false, begun = false;
    for (const char c : mapped) {
      if (c == ' ') {
        if (!spaces_.remove_extra) out += spaces_.space_mark;
        in_word = false;
        continue;
      }
      if (!in_word) {
        const bool first = !begun;
        if (first ? spaces_.add_dummy_prefix : spaces_.remove_extra) out += spaces_.space_mark;
      }
      in_word = begun = true;
      out += c;
    }
    return out;
  }

  Charsmap map_;
  SentencePieceSpaces spaces_;
  std::vector<std::string> verbatim_;
  PrefixTrie trie_;
};

}  // namespace

NormalizerPointer MakeNormalizerSequence(std::vector<NormalizerPointer> steps) {
  return std::make_unique<Sequence>(std::move(steps));
}
NormalizerPointer MakePrepend(std::string prefix) { return std::make_unique<Prepend>(std::move(prefix)); }
NormalizerPointer MakeReplace(SplitPattern pattern, std::string content) {
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}
NormalizerPointer MakeNormalForm(NormalForm form) { return std::make_unique<Form>(form); }
NormalizerPointer MakeLowercase() { return std::make_unique<Lowercase>(); }
NormalizerPointer MakeStripAccents() { return std::make_unique<StripAccents>(); }
NormalizerPointer MakeStrip(bool left, bool right) { return std::make_unique<Strip>(left, right); }
NormalizerPointer MakeNmt() { return std::make_unique<Nmt>(); }
NormalizerPointer MakeByteAlphabet() { return std::make_unique<ByteAlphabet>(); }
NormalizerPointer MakeBert(BertNormalization options) { return std::make_unique<Bert>(options); }
NormalizerPointer MakePrecompiled(Charsmap map) { return std::make_unique<Precompiled>(std::move(map)); }
NormalizerPointer MakeSentencePiece(Charsmap map, SentencePieceSpaces spaces,
                                    std::vector<std::string> verbatim) {
  return std::make_unique<SentencePiece>(std::move(map), std::move(spaces), std::move(verbatim));
}

}  // namespace tidepool::text
