// Pre-tokenizers: the steps that cut normalized text into the pieces a model sees. One class per type of
// tokenizer.json, behind one interface. Immutable; any thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/pieces.h"
#include "models/text/split_pattern.h"

namespace tidepool::text {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Apply(Pieces& pieces) const = 0;
};

// What becomes of the text that a split matched.
enum class SplitBehavior { kRemoved, kIsolated, kContiguous, kMergedWithPrevious, kMergedWithNext };

using PreTokenizerPointer = std::unique_ptr<PreTokenizer>;

PreTokenizerPointer MakePatternSplit(SplitPattern pattern, SplitBehavior behavior, bool invert);
PreTokenizerPointer MakePreTokenizerSequence(std::vector<PreTokenizerPointer> steps);
// Cuts at characters for which `matches` is true.
PreTokenizerPointer MakeCharacterSplit(bool (*matches)(uint32_t code), SplitBehavior behavior);
PreTokenizerPointer MakeDelimiterSplit(uint32_t delimiter);  // removes it
PreTokenizerPointer MakeWordSplit();                         // Whitespace: \w+|[^\w\s]+
PreTokenizerPointer MakeFixedLength(size_t characters);

// GPT-2's split. spell_bytes: pieces are then spelled in its alphabet (left out when the model takes raw
// bytes).
struct ByteLevelSplit {
  bool add_prefix_space = true;
  bool use_regex = true;
  bool spell_bytes = true;
};
Result<PreTokenizerPointer> MakeByteLevel(ByteLevelSplit options);

enum class PrependScheme { kAlways, kFirst, kNever };
struct MetaspaceSplit {
  std::string replacement;  // one character
  PrependScheme prepend = PrependScheme::kAlways;
  bool split = true;
};
PreTokenizerPointer MakeMetaspace(MetaspaceSplit options);

}  // namespace tidepool::text
