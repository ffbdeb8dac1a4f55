// Normalizers: what happens to text before it is cut. One class per type of tokenizer.json. Immutable; any
// thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/split_pattern.h"

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

}  // namespace tidepool::text
