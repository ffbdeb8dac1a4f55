// The last step of encoding: one pre-token to token ids.
#pragma once

#include <string_view>
#include <vector>

#include "models/text/tokenizer.h"

namespace tidepool::text {

class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of `piece` (well-formed UTF-8, or raw bytes for a byte-level model; may be empty).
  // Any thread. Time is at most n log n in the length of the piece.
  virtual void Tokenize(std::string_view piece, std::vector<TokenId>& out) const = 0;
};

// A vocabulary entry as a file spells it.
struct VocabularyEntry {
  std::string_view piece;
  TokenId id = 0;
  double score = 0;  // unigram: log probability; SentencePiece BPE: negative rank
};

// Files may claim anything; ids index arrays, so they are bounded first.
inline constexpr int64_t kMaxVocabulary = 4'000'000;

}  // namespace tidepool::text
