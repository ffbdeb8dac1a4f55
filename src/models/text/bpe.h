// Byte-pair encoding by merge ranks: GPT-2's byte-level kind, and the character kind of tokenizer.json files
// that were SentencePiece models once (Llama 2, Gemma).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "models/text/model.h"
#include "models/text/piece_map.h"

namespace tidepool::text {

struct BpeOptions {
  // Pieces are raw bytes, one start symbol per byte; vocabulary and merges are spelled in GPT-2's alphabet.
  bool byte_level = false;
  bool ignore_merges = false;  // a piece that is in the vocabulary is that token, whatever the merges say
  // GGUF `gemma4`: the same, only for pieces made of line feeds.
  bool ignore_merges_newlines = false;
  bool byte_fallback = false;  // a character outside the vocabulary becomes its <0xNN> tokens
  bool fuse_unknown = false;
  std::optional<TokenId> unknown;
  std::string continuing_prefix;  // spelled before every start symbol but the first of a piece
  std::string end_suffix;         // spelled after the last one
  // GGUF files may merge by way of pieces that are no tokens; tokenizer.json may not.
  bool merges_need_tokens = true;
  bool later_merge_wins = true;  // among equal pairs; GGUF: the first
};

using MergePair = std::pair<std::string_view, std::string_view>;

// (left symbol, right symbol) -> (rank, merged symbol): open addressing, half full at most.
class MergeTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Merge {
    uint32_t rank = kNone;
    int32_t result = 0;
  };
  void Reserve(size_t merges);
  void Insert(int32_t left, int32_t right, Merge merge, bool replace);
  Merge Find(int32_t left, int32_t right) const {
    if (slots_.empty()) return {};
    const uint64_t key = Key(left, right);
    for (size_t i = Home(key);; i = (i + 1) & mask_) {
      if (slots_[i].merge.rank == kNone) return {};
      if (slots_[i].key == key) return slots_[i].merge;
    }
  }

 private:
  struct Slot {
    uint64_t key = 0;
    Merge merge;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  // Fibonacci hashing: the high bits of key * 2^64/phi.
  size_t Home(uint64_t key) const {
    return static_cast<size_t>((key ^ key >> 29) * 0x9E3779B97F4A7C15u >> shift_);
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
  int shift_ = 0;
};

class Bpe final : public Model {
 public:
  // Fails if a merge names a piece outside the vocabulary (and merges_need_tokens).
  static Result<std::unique_ptr<Bpe>> Create(std::span<const VocabularyEntry> vocabulary,
                                             std::span<const MergePair> merges, BpeOptions options);

  void Tokenize(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  explicit Bpe(BpeOptions options);
  Status Build(std::span<const VocabularyEntry> vocabulary, std::span<const MergePair> merges);
  struct MergeSpelling {
    std::string left, right, merged;
  };
  Status AddMerge(MergePair pair, uint32_t rank, MergeSpelling& buffer);
  void FindSafeBreaks();
  void TokenizeCached(std::string_view piece, std::vector<TokenId>& out) const;
  void TokenizeUncached(std::string_view piece, std::vector<TokenId>& out) const;
  void StartSymbols(std::string_view piece, std::vector<int32_t>& symbols) const;
  void StartSymbol(std::string_view spelled, std::vector<int32_t>& symbols,
                   std::optional<TokenId>& pending) const;
  void MergeShort(std::vector<int32_t>& symbols) const;
  void MergeLong(std::vector<int32_t>& symbols) const;
  void Emit(int32_t symbol, std::vector<TokenId>& out) const;
  bool BreaksBetween(uint32_t left, uint32_t right) const;

  BpeOptions options_;
  uint64_t serial_;   // tells tokenizers apart in the threads' caches
  PieceMap symbols_;  // tokens by their bytes, then symbols that only merges know
  int32_t first_virtual_ = 0;
  std::vector<std::string> virtual_;  // bytes of the symbols from first_virtual_ on
  std::array<int32_t, 256> byte_symbol_{};
  std::array<int32_t, 256> byte_token_{};  // <0xNN>, or -1
  bool has_all_byte_tokens_ = false;
  MergeTable merges_;
  // Character kind: pairs of neighbouring characters that occur inside a token, and the characters that are
  // start symbols. Between two known characters that are neighbours in no token, no merge can ever reach
  // across: the text may be cut there, which bounds the pieces and lets them be cached.
  bool safe_breaks_ = false;
  std::vector<uint64_t> neighbours_;  // open addressing set of left << 32 | right; 0 is free
  std::vector<bool> known_;
};

}  // namespace tidepool::text
