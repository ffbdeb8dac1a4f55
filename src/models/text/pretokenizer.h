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

}  // namespace tidepool::text
