// Normalizers: what happens to text before it is cut. One class per type of tokenizer.json. Immutable; any
// thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/charsmap.h"
#include "models/text/split_pattern.h"
#include "models/text/unicode.h"

namespace tidepool::text {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // `text` is well-formed before and after.
  virtual void Apply(std::string& text) const = 0;
};

using NormalizerPointer = std::unique_ptr<Normalizer>;

NormalizerPointer MakeNormalizerSequence(std::vector<NormalizerPointer> steps);
NormalizerPointer MakePrepend(std::string prefix);  // not before empty text
NormalizerPointer MakeReplace(SplitPattern pattern, std::string content);
NormalizerPointer MakeNormalForm(NormalForm form);
NormalizerPointer MakeLowercase();
NormalizerPointer MakeStripAccents();
NormalizerPointer MakeStrip(bool left, bool right);
NormalizerPointer MakeNmt();           // SentencePiece's clean-up of control characters
NormalizerPointer MakeByteAlphabet();  // every byte by its spelling in GPT-2's alphabet

struct BertNormalization {
  bool clean_text = true;
  bool handle_chinese_chars = true;
  bool strip_accents = true;
  bool lowercase = true;
};
NormalizerPointer MakeBert(BertNormalization options);

// As Hugging Face's Precompiled applies the map: by grapheme, the shortest key.
NormalizerPointer MakePrecompiled(Charsmap map);
// As SentencePiece applies it: the longest key at each place, then its rules of white space.
struct SentencePieceSpaces {
  bool add_dummy_prefix = true;
  bool remove_extra = true;  // runs of spaces become one, none at the ends
  std::string space_mark;    // written for a space
};
// `verbatim`: user-defined pieces, which are left as they are.
NormalizerPointer MakeSentencePiece(Charsmap map, SentencePieceSpaces spaces,
                                    std::vector<std::string> verbatim);

}  // namespace tidepool::text
