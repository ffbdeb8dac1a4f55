#include "models/text/token_table.h"

#include "base/check.h"

namespace tidepool::text {

TokenTable::Text TokenTable::Store(std::string_view text) {
  CHECK(arena_.size() + text.size() <= UINT32_MAX);
  const Text stored{static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(text.size())};
  arena_.append(text);
  return stored;
}

void TokenTable::Reserve(size_t tokens, size_t bytes) {
  tokens_.reserve(tokens);
  arena_.reserve(2 * bytes);  // pieces, and the bytes of those that are spelled otherwise
  by_piece_.Reserve(tokens);
  by_piece_.ReserveBytes(bytes);
}

void TokenTable::Set(TokenId id, std::string_view piece) {
  CHECK(id >= 0);
  if (id >= size()) tokens_.resize(static_cast<size_t>(id) + 1);
  Token& token = tokens_[static_cast<size_t>(id)];
  token.piece = Store(piece);
  token.bytes = token.piece;
  token.present = true;
  by_piece_.Insert(piece, id);
}

void TokenTable::SetBytes(TokenId id, std::string_view bytes) {
  CHECK(Has(id));
  Token& token = tokens_[static_cast<size_t>(id)];
  token.bytes = bytes == View(token.piece) ? token.piece : Store(bytes);
}

void TokenTable::SetControl(TokenId id, bool control) {
  CHECK(Has(id));
  tokens_[static_cast<size_t>(id)].control = control;
}

void TokenTable::SetShown(TokenId id, bool shown) {
  CHECK(Has(id));
  tokens_[static_cast<size_t>(id)].shown = shown;
}

std::string_view TokenTable::Piece(TokenId id) const {
  return Has(id) ? View(tokens_[static_cast<size_t>(id)].piece) : std::string_view();
}

std::string_view TokenTable::Bytes(TokenId id) const {
  return Has(id) ? View(tokens_[static_cast<size_t>(id)].bytes) : std::string_view();
}

std::optional<TokenId> TokenTable::Find(std::string_view piece) const {
  const int32_t id = by_piece_.Find(piece);
  if (id == PieceMap::kMissing) return std::nullopt;
  return id;
}

}  // namespace tidepool::text
