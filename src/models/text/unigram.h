// SentencePiece's unigram model: of all ways to cut the text into pieces, the one with the highest sum of
// scores.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "models/text/model.h"
#include "models/text/piece_map.h"
#include "models/text/prefix_trie.h"

namespace tidepool::text {

struct UnigramOptions {
  std::optional<TokenId> unknown;
  bool byte_fallback = false;
};

class Unigram final : public Model {
 public:
  // `vocabulary`: what text may become. Fails if the unknown token is missing and text could need it.
  static Result<std::unique_ptr<Unigram>> Create(std::span<const VocabularyEntry> vocabulary,
                                                 UnigramOptions options);
  void Tokenize(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  void EmitUnknown(std::string_view text, std::vector<TokenId>& out) const;

  UnigramOptions options_;
  PieceMap pieces_;
  PrefixTrie trie_;
  std::vector<double> scores_;  // by id
  std::array<int32_t, 256> byte_token_{};
  double unknown_score_ = 0;
};

}  // namespace tidepool::text
