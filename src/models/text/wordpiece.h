// WordPiece (BERT): the longest piece first, again and again; a word that cannot be spelled is unknown as a
// whole. WordLevel: whole words only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/text/model.h"
#include "models/text/piece_map.h"

namespace tidepool::text {

struct WordPieceOptions {
  TokenId unknown = 0;
  std::string word_prefix;               // put before every word (GGUF spells word starts "▁the")
  std::string continuing_prefix = "##";  // spelled before every piece but a word's first
  size_t max_characters = SIZE_MAX;      // a longer word is unknown
};

class WordPiece final : public Model {
 public:
  WordPiece(std::span<const VocabularyEntry> vocabulary, WordPieceOptions options);
  void Tokenize(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  WordPieceOptions options_;
  PieceMap pieces_;
};

class WordLevel final : public Model {
 public:
  WordLevel(std::span<const VocabularyEntry> vocabulary, TokenId unknown);
  void Tokenize(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  PieceMap pieces_;
  TokenId unknown_;
};

}  // namespace tidepool::text
