#include "models/text/pipeline.h"

#include <utility>

#include "base/check.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

class PipelineTokenizer final : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
    CHECK(parts_.model != nullptr);
    std::vector<AddedToken> plain, normalized;
    for (AddedToken& token : parts_.added) {
      if (token.normalized && parts_.normalizer != nullptr) parts_.normalizer->Apply(token.content);
      (token.normalized ? normalized : plain).push_back(std::move(token));
    }
    parts_.added.clear();
    plain_.Build(std::move(plain));
    normalized_.Build(std::move(normalized));
  }

  std::string_view kind() const override { return parts_.kind; }
  int32_t vocab_size() const override { return parts_.tokens.size(); }
  const SpecialTokens& special() const override { return parts_.special; }

  std::vector<TokenId> Encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<TokenId> ids;
    ids.reserve(text.size() / 3 + 8);
    if (options.add_special) ids = parts_.before;
    std::string clean;
    if (!IsValidUtf8(text)) {
      clean = ReplaceInvalidUtf8(text);
      text = clean;
    }
    const char* start = text.data();
    Pieces pieces;
    plain_.Split(
        text, options.parse_special,
        [&](std::string_view part) {
          EncodePart(part, part.data() == start, options.parse_special, pieces, ids);
        },
        [&](TokenId id) { ids.push_back(id); });
    if (options.add_special) ids.insert(ids.end(), parts_.after.begin(), parts_.after.end());
    return ids;
  }

  std::string_view TokenBytes(TokenId id, bool render_special) const override {
    if (!render_special && !parts_.tokens.IsShown(id)) return {};
    return parts_.tokens.Bytes(id);
  }

  std::string Decode(std::span<const TokenId> ids, bool render_special) const override {
    std::string text;
    bool first = parts_.strips_leading_space;
    for (const TokenId id : ids) {
      std::string_view bytes = TokenBytes(id, render_special);
      if (first && !bytes.empty()) {
        first = false;
        if (bytes.front() == ' ') bytes.remove_prefix(1);
      }
      text += bytes;
    }
    if (parts_.drops_trailing_space && text.ends_with(' ')) text.pop_back();
    return text;
  }

  bool IsControl(TokenId id) const override { return parts_.tokens.IsControl(id); }
  bool strips_leading_space() const override { return parts_.strips_leading_space; }
  std::string_view Piece(TokenId id) const override { return parts_.tokens.Piece(id); }
  std::optional<TokenId> FindPiece(std::string_view piece) const override {
    return parts_.tokens.Find(piece);
  }

 private:
  // `pieces` is scratch.
  void EncodePart(std::string_view part, bool starts_text, bool parse_special, Pieces& pieces,
                  std::vector<TokenId>& ids) const {
    pieces.text.assign(part);
    if (parts_.normalizer != nullptr) parts_.normalizer->Apply(pieces.text);
    if (normalized_.empty()) {
      EncodePieces(starts_text, pieces, ids);
      return;
    }
    const std::string normalized = pieces.text;
    normalized_.Split(
        normalized, parse_special,
        [&](std::string_view rest) {
          pieces.text.assign(rest);
          EncodePieces(starts_text && rest.data() == normalized.data(), pieces, ids);
        },
        [&](TokenId id) { ids.push_back(id); });
  }

  void EncodePieces(bool starts_text, Pieces& pieces, std::vector<TokenId>& ids) const {
    if (pieces.text.empty()) return;
    pieces.spans.assign(1, Span{0, pieces.text.size()});
    pieces.starts_text = starts_text;
    if (parts_.pre_tokenizer != nullptr) parts_.pre_tokenizer->Apply(pieces);
    for (const Span& span : pieces.spans) parts_.model->Tokenize(pieces.At(span), ids);
  }

  TokenizerParts parts_;
  AddedTokenMatcher plain_;
  AddedTokenMatcher normalized_;
};

}  // namespace

std::unique_ptr<Tokenizer> MakePipelineTokenizer(TokenizerParts parts) {
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace tidepool::text
