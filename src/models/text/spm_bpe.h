// SentencePiece BPE as GGUF files carry it (`llama`): no merges, but scores; the pair whose joined piece has
// the highest score is merged first, the leftmost of equals.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "models/text/model.h"
#include "models/text/piece_map.h"

namespace tidepool::text {

class SpmBpe final : public Model {
 public:
  // Entries that text may not become (control tokens) are to be left out by the caller, except byte tokens.
  SpmBpe(std::span<const VocabularyEntry> vocabulary, std::optional<TokenId> unknown);
  void Tokenize(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  void Emit(std::string_view text, std::vector<TokenId>& out) const;

  PieceMap pieces_;
  std::vector<float> scores_;
  std::array<int32_t, 256> byte_token_{};
  std::optional<TokenId> unknown_;
};

}  // namespace tidepool::text
