#include "models/text/spm_bpe.h"

#include <algorithm>
#include <queue>

#include "models/text/byte_alphabet.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

constexpr uint32_t kEnd = UINT32_MAX;

struct Symbol {
  uint32_t begin, size;  // size 0: merged into an earlier one
  uint32_t previous, next;
};

struct Bigram {
  float score;
  uint32_t left;
  uint32_t size;  // of the joined piece: tells entries that are out of date
  bool operator<(const Bigram& other) const {
    return score < other.score || (score == other.score && left > other.left);
  }
};

}  // namespace

SpmBpe::SpmBpe(std::span<const VocabularyEntry> vocabulary, std::optional<TokenId> unknown)
    : unknown_(unknown) {
  byte_token_.fill(-1);
  pieces_.Reserve(vocabulary.size());
  for (const VocabularyEntry& entry : vocabulary) {
    if (const auto byte = ParseByteToken(entry.piece)) byte_token_[*byte] = entry.id;
    pieces_.Insert(entry.piece, entry.id);
    const auto index = static_cast<size_t>(entry.id);
    if (index >= scores_.size()) scores_.resize(index + 1, 0);
    scores_[index] = static_cast<float>(entry.score);
  }
}

void SpmBpe::Tokenize(std::string_view piece, std::vector<TokenId>& out) const {
  // Bounded by the callers' limits on a request; offsets of 32 bits keep a symbol at 16 bytes.
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (size_t i = 0; i < piece.size();) {
    const uint32_t size = ReadValidCharacter(piece, i).size;
    const auto index = static_cast<uint32_t>(symbols.size());
    symbols.push_back({static_cast<uint32_t>(i), size, index - 1, index + 1});
    i += size;
  }
  if (symbols.empty()) return;
  symbols.front().previous = kEnd;
  symbols.back().next = kEnd;

  std::vector<Bigram> start;
  const auto bigram_at = [&](uint32_t left, std::vector<Bigram>* into, std::priority_queue<Bigram>* heap) {
    const uint32_t right = symbols[left].next;
    if (right == kEnd) return;
    const uint32_t size = symbols[left].size + symbols[right].size;
    const int32_t id = pieces_.Find(piece.substr(symbols[left].begin, size));
    if (id == PieceMap::kMissing) return;
    const Bigram bigram{scores_[static_cast<size_t>(id)], left, size};
    if (into != nullptr) into->push_back(bigram);
    if (heap != nullptr) heap->push(bigram);
  };
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) bigram_at(i, &start, nullptr);
  std::priority_queue<Bigram> heap(std::less<Bigram>{}, std::move(start));
  while (!heap.empty()) {
    const Bigram best = heap.top();
    heap.pop();
    Symbol& left = symbols[best.left];
    if (left.size == 0 || left.next == kEnd || left.size + symbols[left.next].size != best.size) continue;
    Symbol& right = symbols[left.next];
    left.size = best.size;
    right.size = 0;
    left.next = right.next;
    if (left.next != kEnd) symbols[left.next].previous = best.left;
    if (left.previous != kEnd) bigram_at(left.previous, nullptr, &heap);
    bigram_at(best.left, nullptr, &heap);
  }
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next)
    Emit(piece.substr(symbols[i].begin, symbols[i].size), out);
}

void SpmBpe::Emit(std::string_view text, std::vector<TokenId>& out) const {
  const int32_t id = pieces_.Find(text);
  if (id != PieceMap::kMissing) {
    out.push_back(id);
    return;
  }
  // One character outside the vocabulary.
  const bool bytes = std::all_of(text.begin(), text.end(),
                                 [&](char c) { return byte_token_[static_cast<uint8_t>(c)] >= 0; });
  if (bytes) {
    for (const char c : text) out.push_back(byte_token_[static_cast<uint8_t>(c)]);
  } else if (unknown_) {
    out.push_back(*unknown_);
  }
}

}  // namespace tidepool::text
