#include "models/text/wordpiece.h"

#include <algorithm>
#include <utility>

#include "models/text/utf8.h"

namespace tidepool::text {

WordPiece::WordPiece(std::span<const VocabularyEntry> vocabulary, WordPieceOptions options)
    : options_(std::move(options)) {
  pieces_.Reserve(vocabulary.size());
  for (const VocabularyEntry& entry : vocabulary) pieces_.Insert(entry.piece, entry.id);
}

void WordPiece::Tokenize(std::string_view piece, std::vector<TokenId>& out) const {
  const auto characters = std::count_if(piece.begin(), piece.end(),
                                        [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
  if (piece.empty()) return;
  if (static_cast<size_t>(characters) > options_.max_characters) {
    out.push_back(options_.unknown);
    return;
  }
  const std::string word = options_.word_prefix + std::string(piece);
  const size_t before = out.size();
  std::string spelled;
  for (size_t begin = 0; begin < word.size();) {
    const std::string_view prefix =
        begin == 0 ? std::string_view() : std::string_view(options_.continuing_prefix);
    // No piece is longer than the longest, so that a long word costs its length times a constant.
    size_t end = std::min(word.size(), begin + pieces_.longest());
    while (end < word.size() && (static_cast<uint8_t>(word[end]) & 0xC0) == 0x80) --end;
    int32_t id = PieceMap::kMissing;
    for (; end > begin; end = PreviousCharacter(word, end)) {
      spelled.assign(prefix).append(word, begin, end - begin);
      id = pieces_.Find(spelled);
      if (id != PieceMap::kMissing) break;
    }
    if (id == PieceMap::kMissing) {
      out.resize(before);
      out.push_back(options_.unknown);
      return;
    }
    out.push_back(id);
    begin = end;
  }
}

WordLevel::WordLevel(std::span<const VocabularyEntry> vocabulary, TokenId unknown) : unknown_(unknown) {
  pieces_.Reserve(vocabulary.size());
  for (const VocabularyEntry& entry : vocabulary) pieces_.Insert(entry.piece, entry.id);
}

void WordLevel::Tokenize(std::string_view piece, std::vector<TokenId>& out) const {
  const int32_t id = pieces_.Find(piece);
  out.push_back(id == PieceMap::kMissing ? unknown_ : id);
}

}  // namespace tidepool::text
