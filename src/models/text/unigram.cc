#include "models/text/unigram.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "models/text/byte_alphabet.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

// An unknown character costs this much more than the least likely piece (sentencepiece's kUnkPenalty).
constexpr double kUnknownPenalty = 10.0;
constexpr TokenId kNoPiece = -1;

struct Best {
  double score = 0;
  uint32_t begin = UINT32_MAX;  // of the last piece; UINT32_MAX: not reached yet
  TokenId id = kNoPiece;        // kNoPiece: an unknown character
};

}  // namespace

Result<std::unique_ptr<Unigram>> Unigram::Create(std::span<const VocabularyEntry> vocabulary,
                                                 UnigramOptions options) {
  auto model = std::make_unique<Unigram>();
  model->options_ = options;
  model->byte_token_.fill(-1);
  model->pieces_.Reserve(vocabulary.size());
  double lowest = std::numeric_limits<double>::infinity();
  for (const VocabularyEntry& entry : vocabulary) {
    if (const auto byte = ParseByteToken(entry.piece)) model->byte_token_[*byte] = entry.id;
    model->pieces_.Insert(entry.piece, entry.id);
    const auto index = static_cast<size_t>(entry.id);
    if (index >= model->scores_.size()) model->scores_.resize(index + 1, 0);
    model->scores_[index] = entry.score;
    lowest = std::min(lowest, entry.score);
  }
  model->unknown_score_ = lowest - kUnknownPenalty;
  const bool all_bytes =
      std::all_of(model->byte_token_.begin(), model->byte_token_.end(), [](int32_t id) { return id >= 0; });
  if (!options.unknown && !(options.byte_fallback && all_bytes)) {
    return Fail(
        ErrorKind::kCorrupt, "bad_tokenizer",
        "tokenizer: a unigram model without unk_id cannot spell unknown characters; the file is damaged",
        "model.unk_id");
  }
  std::vector<std::pair<std::string_view, int32_t>> entries;
  entries.reserve(model->pieces_.size());
  model->pieces_.ForEach([&](std::string_view piece, int32_t id) { entries.emplace_back(piece, id); });
  std::sort(entries.begin(), entries.end());
  model->trie_.Build(entries);
  return model;
}

// Forward: the best way to reach each place; the first of equal sums stays, as in the reference
// (EncodeOptimized).
void Unigram::Tokenize(std::string_view piece, std::vector<TokenId>& out) const {
  const size_t size = piece.size();
  std::vector<Best> best(size + 1);
  for (size_t begin = 0; begin < size;) {
    const double so_far = best[begin].score;
    const size_t character = ReadValidCharacter(piece, begin).size;
    bool single = false;
    const auto offer = [&](size_t end, double score, TokenId id) {
      Best& target = best[end];
      if (target.begin == UINT32_MAX || score > target.score) {
        target = {score, static_cast<uint32_t>(begin), id};
      }
    };
    trie_.ForEachPrefix(piece, begin, [&](int32_t id, size_t bytes) {
      offer(begin + bytes, so_far + scores_[static_cast<size_t>(id)], id);
      single |= bytes == character;
    });
    if (!single) offer(begin + character, so_far + unknown_score_, kNoPiece);
    begin += character;
  }
  // Backward: the pieces in reverse; neighbouring unknown characters become one.
  struct Part {
    uint32_t begin, end;
    TokenId id;
  };
  std::vector<Part> parts;
  for (size_t end = size; end > 0; end = best[end].begin) {
    const Best& node = best[end];
    const bool unknown = node.id == kNoPiece || node.id == options_.unknown;
    if (unknown && !parts.empty() && parts.back().id == kNoPiece) {
      parts.back().begin = node.begin;
    } else {
      parts.push_back({node.begin, static_cast<uint32_t>(end), unknown ? kNoPiece : node.id});
    }
  }
  for (size_t i = parts.size(); i-- > 0;) {
    const Part& part = parts[i];
    if (part.id != kNoPiece) {
      out.push_back(part.id);
    } else {
      EmitUnknown(piece.substr(part.begin, part.end - part.begin), out);
    }
  }
}

void Unigram::EmitUnknown(std::string_view text, std::vector<TokenId>& out) const {
  // The joined text may be a piece after all: unknown characters win where pieces score below them.
  const int32_t id = pieces_.Find(text);
  if (id != PieceMap::kMissing) {
    out.push_back(id);
    return;
  }
  const bool bytes = options_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) {
                       return byte_token_[static_cast<uint8_t>(c)] >= 0;
                     });
  if (bytes) {
    for (const char c : text) out.push_back(byte_token_[static_cast<uint8_t>(c)]);
  } else if (options_.unknown) {
    out.push_back(*options_.unknown);
  }
}

}  // namespace tidepool::text
