// What a token stands for in running text: the decoders of tokenizer.json, applied to each token once, at
// load.
//
// Hugging Face decodes whole sequences; streams need tokens. The difference is at the ends of a text only,
// where the rules are `strips_leading_space` and `drops_trailing_space`.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/split_pattern.h"
#include "models/text/tokenizer.h"

namespace tidepool::text {

class Decoder {
 public:
  struct Step {
    enum class Kind { kByteLevel, kReplace, kByteFallback, kStrip, kWordPiece, kMetaspace, kSuffix };
    Kind kind = Kind::kByteLevel;
    SplitPattern pattern = SplitPattern::Literal("");  // kReplace
    std::string text;            // kReplace: content; kStrip: the character; others: prefix, mark or suffix
    size_t start = 0, stop = 0;  // kStrip: at most that many
    bool cleanup = false;        // kWordPiece
  };

  void Add(Step step) { steps_.push_back(std::move(step)); }
  // The bytes of a token whose piece is spelled `piece`. `added`: not of the model's vocabulary.
  std::string Bytes(std::string_view piece, bool added) const;

  bool fused = false;  // later steps see the whole text
  bool strips_leading_space = false;
  bool drops_trailing_space = false;

 private:
  std::vector<Step> steps_;
};

}  // namespace tidepool::text
