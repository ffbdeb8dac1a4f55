// The tokenizer of the simulated model: a token per byte and four control tokens.
#include <array>

#include "models/text/tokenizer.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

constexpr TokenId kBytes = 256;
constexpr std::array<std::string_view, 4> kNamed = {"<|im_start|>", "<|im_end|>", "<think>", "</think>"};
constexpr TokenId kImEnd = kBytes + 1;
constexpr TokenId kThink =
    kBytes + 2;  // this one and the next are shown, so that reasoning can be told apart
constexpr TokenId kSize = kBytes + static_cast<TokenId>(kNamed.size());

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<char>(i);
    special_.eos = kImEnd;
    special_.eot = kImEnd;
    special_.end_of_generation = {kImEnd};
  }

  std::string_view kind() const override { return "bytes"; }
  int32_t vocab_size() const override { return kSize; }
  const SpecialTokens& special() const override { return special_; }

  std::vector<TokenId> Encode(std::string_view text, const EncodeOptions& options) const override {
    const std::string clean = ReplaceInvalidUtf8(text);
    std::vector<TokenId> ids;
    ids.reserve(clean.size());
    for (size_t i = 0; i < clean.size();) {
      const std::optional<TokenId> named = options.parse_special ? NamedAt(clean, i) : std::nullopt;
      ids.push_back(named ? *named : static_cast<unsigned char>(clean[i]));
      i += named ? Piece(*named).size() : 1;
    }
    return ids;
  }

  std::string_view TokenBytes(TokenId id, bool render_special) const override {
    if (IsControl(id) && id < kThink && !render_special) return {};
    return Piece(id);
  }

  std::string Decode(std::span<const TokenId> ids, bool render_special) const override {
    std::string text;
    for (const TokenId id : ids) text += TokenBytes(id, render_special);
    return text;
  }

  bool IsControl(TokenId id) const override { return id >= kBytes && id < kSize; }
  bool strips_leading_space() const override { return false; }

  std::string_view Piece(TokenId id) const override {
    if (id < 0 || id >= kSize) return {};
    if (id < kBytes) return std::string_view(bytes_.data() + id, 1);
    return kNamed[static_cast<size_t>(id - kBytes)];
  }

  std::optional<TokenId> FindPiece(std::string_view piece) const override {
    if (piece.size() == 1) return static_cast<unsigned char>(piece[0]);
    const auto named = NamedAt(piece, 0);
    return named && Piece(*named) == piece ? named : std::nullopt;
  }

 private:
  std::optional<TokenId> NamedAt(std::string_view text, size_t position) const {
    for (size_t i = 0; i < kNamed.size(); ++i) {
      if (text.substr(position).starts_with(kNamed[i])) return kBytes + static_cast<TokenId>(i);
    }
    return std::nullopt;
  }

  std::array<char, 256> bytes_{};
  SpecialTokens special_;
};

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::Bytes() { return std::make_unique<ByteTokenizer>(); }

}  // namespace tidepool::text
