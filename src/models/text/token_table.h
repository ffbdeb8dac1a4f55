// What each token id is: its spelling in the file, the bytes it stands for, whether it is control.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/piece_map.h"
#include "models/text/tokenizer.h"

namespace tidepool::text {

class TokenTable {
 public:
  // Ids may have holes; a hole has an empty piece. Setting an id again replaces it.
  void Set(TokenId id, std::string_view piece);
  void SetBytes(TokenId id, std::string_view bytes);
  // Room for `tokens` tokens of `bytes` bytes in all, so that filling in copies nothing.
  void Reserve(size_t tokens, size_t bytes);
  void SetControl(TokenId id, bool control);
  // Control tokens that clients need to see all the same ("<think>").
  void SetShown(TokenId id, bool shown);

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  bool Has(TokenId id) const { return id >= 0 && id < size() && tokens_[static_cast<size_t>(id)].present; }
  std::string_view Piece(TokenId id) const;
  std::string_view Bytes(TokenId id) const;
  bool IsControl(TokenId id) const { return Has(id) && tokens_[static_cast<size_t>(id)].control; }
  bool IsShown(TokenId id) const { return !IsControl(id) || tokens_[static_cast<size_t>(id)].shown; }
  std::optional<TokenId> Find(std::string_view piece) const;

 private:
  struct Text {
    uint32_t offset = 0, size = 0;
  };
  struct Token {
    Text piece, bytes;
    bool present = false, control = false, shown = false;
  };
  Text Store(std::string_view text);
  std::string_view View(Text text) const { return std::string_view(arena_).substr(text.offset, text.size); }

  std::vector<Token> tokens_;
  std::string arena_;
  PieceMap by_piece_;
};

}  // namespace tidepool::text
