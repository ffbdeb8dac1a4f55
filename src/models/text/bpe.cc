#include "models/text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <queue>

#include "models/text/byte_alphabet.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

// Symbols up to which scanning all ranks for the lowest beats a heap (measured: they meet near 40).
constexpr size_t kShort = 40;

// What this thread has tokenized lately. Direct-mapped; 64-byte entries, 16,384 of them = 1 MiB a thread.
class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 24, kMaxIds = 7;
  struct Entry {
    uint64_t serial = 0;
    uint8_t size = 0;
    uint8_t ids_size = 0;
    char bytes[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  Entry& At(std::string_view piece, uint64_t serial) {
    if (entries_.empty()) entries_.resize(kEntries);
    uint64_t hash = serial * 0x9E3779B97F4A7C15u + piece.size();
    for (size_t i = 0; i < piece.size(); i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, piece.data() + i, std::min<size_t>(8, piece.size() - i));
      hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
      hash ^= hash >> 32;
    }
    return entries_[hash & (kEntries - 1)];
  }

 private:
  static constexpr size_t kEntries = 16384;
  std::vector<Entry> entries_;
};

PieceCache& ThreadCache() {
  thread_local PieceCache cache;
  return cache;
}

std::atomic<uint64_t> next_serial{1};

}  // namespace

void MergeTable::Reserve(size_t merges) {
  const size_t slots = std::bit_ceil(merges * 2 + 16);
  slots_.assign(slots, Slot{});
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
}

void MergeTable::Insert(int32_t left, int32_t right, Merge merge, bool replace) {
  const uint64_t key = Key(left, right);
  for (size_t i = Home(key);; i = (i + 1) & mask_) {
    Slot& slot = slots_[i];
    if (slot.merge.rank == kNone) {
      slot = {key, merge};
      return;
    }
    if (slot.key == key) {
      if (replace) slot.merge = merge;
      return;
    }
  }
}

Bpe::Bpe(BpeOptions options)
    : options_(std::move(options)), serial_(next_serial.fetch_add(1, std::memory_order_relaxed)) {
  byte_symbol_.fill(-1);
  byte_token_.fill(-1);
}

Result<std::unique_ptr<Bpe>> Bpe::Create(std::span<const VocabularyEntry> vocabulary,
                                         std::span<const MergePair> merges, BpeOptions options) {
  std::unique_ptr<Bpe> bpe(new Bpe(std::move(options)));
  TP_TRY(bpe->Build(vocabulary, merges));
  return bpe;
}

Status Bpe::Build(std::span<const VocabularyEntry> vocabulary, std::span<const MergePair> merges) {
  symbols_.Reserve(vocabulary.size());
  size_t bytes = 0;
  for (const VocabularyEntry& entry : vocabulary) bytes += entry.piece.size();
  symbols_.ReserveBytes(bytes);
  std::string spelled;
  for (const VocabularyEntry& entry : vocabulary) {
    first_virtual_ = std::max(first_virtual_, entry.id + 1);
    if (const auto byte = ParseByteToken(entry.piece)) byte_token_[*byte] = entry.id;
    if (!options_.byte_level) {
      symbols_.Insert(entry.piece, entry.id);
    } else if (AlphabetToBytes(entry.piece, spelled)) {
      symbols_.Insert(spelled, entry.id);
      if (spelled.size() == 1) byte_symbol_[static_cast<uint8_t>(spelled[0])] = entry.id;
    }
  }
  has_all_byte_tokens_ =
      std::all_of(byte_token_.begin(), byte_token_.end(), [](int32_t id) { return id >= 0; });
  merges_.Reserve(merges.size());
  MergeSpelling buffer;
  for (size_t i = 0; i < merges.size(); ++i) TP_TRY(AddMerge(merges[i], static_cast<uint32_t>(i), buffer));
  if (!options_.byte_level && options_.continuing_prefix.empty() && options_.end_suffix.empty())
    FindSafeBreaks();
  return {};
}

Status Bpe::AddMerge(MergePair pair, uint32_t rank, MergeSpelling& buffer) {
  std::string_view left = pair.first, right = pair.second;
  if (options_.byte_level) {
    // Otherwise no text spells it, and it can never apply.
    if (!AlphabetToBytes(left, buffer.left) || !AlphabetToBytes(right, buffer.right)) return {};
    left = buffer.left;
    right = buffer.right;
  }
  const size_t skip = std::min(options_.continuing_prefix.size(), right.size());
  buffer.merged.assign(left);
  buffer.merged.append(right.substr(skip));
  const std::string_view merged = buffer.merged;
  const auto symbol = [&](std::string_view bytes) {
    int32_t id = symbols_.Find(bytes);
    if (id == PieceMap::kMissing && !options_.merges_need_tokens) {
      id = first_virtual_ + static_cast<int32_t>(virtual_.size());
      symbols_.Insert(bytes, id);
      virtual_.emplace_back(bytes);
    }
    return id;
  };
  const int32_t left_id = symbol(left), right_id = symbol(right), merged_id = symbol(merged);
  if (left_id < 0 || right_id < 0 || merged_id < 0) {
    return Fail(
        ErrorKind::kCorrupt, "bad_tokenizer",
        fmt::format("tokenizer: merge {} (\"{}\" + \"{}\") uses a piece that is not in the vocabulary; the "
                    "file is damaged, fetch it again",
                    rank, pair.first, pair.second),
        "model.merges");
  }
  merges_.Insert(left_id, right_id, {rank, merged_id}, options_.later_merge_wins);
  return {};
}

void Bpe::Emit(int32_t symbol, std::vector<TokenId>& out) const {
  if (symbol < first_virtual_) {
    out.push_back(symbol);
    return;
  }
  for (const char c : virtual_[static_cast<size_t>(symbol - first_virtual_)]) {
    const auto byte = static_cast<uint8_t>(c);
    const int32_t token = options_.byte_level ? byte_symbol_[byte] : byte_token_[byte];
    if (token >= 0) out.push_back(token);
  }
}

// ---- safe breaks ----

namespace {

uint64_t NeighbourKey(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left + 1) << 32 | right; }
size_t NeighbourHome(uint64_t key, size_t mask) {
  return static_cast<size_t>(key * 0x9E3779B97F4A7C15u >> 24) & mask;
}

}  // namespace

bool Bpe::BreaksBetween(uint32_t left, uint32_t right) const {
  if (!known_[left] || !known_[right]) return false;
  const uint64_t key = NeighbourKey(left, right);
  const size_t mask = neighbours_.size() - 1;
  for (size_t i = NeighbourHome(key, mask); neighbours_[i] != 0; i = (i + 1) & mask) {
    if (neighbours_[i] == key) return false;
  }
  return true;
}

void Bpe::FindSafeBreaks() {
  size_t count = 0;
  known_.assign(0x110000, false);
  neighbours_.assign(1u << 16, 0);
  const auto add = [&](uint64_t key) {
    const size_t mask = neighbours_.size() - 1;
    size_t i = NeighbourHome(key, mask);
    while (neighbours_[i] != 0 && neighbours_[i] != key) i = (i + 1) & mask;
    if (neighbours_[i] == key) return;
    neighbours_[i] = key;
    ++count;
  };
  symbols_.ForEach([&](std::string_view piece, int32_t) {
    if (!IsValidUtf8(piece) || piece.empty()) return;
    Character left = ReadValidCharacter(piece, 0);
    if (left.size == piece.size()) known_[left.code] = true;
    for (size_t i = left.size; i < piece.size();) {
      const Character right = ReadValidCharacter(piece, i);
      add(NeighbourKey(left.code, right.code));
      if (count * 2 > neighbours_.size()) {
        std::vector<uint64_t> old(neighbours_.size() * 2, 0);
        old.swap(neighbours_);
        count = 0;
        for (const uint64_t key : old) {
          if (key != 0) add(key);
        }
      }
      left = right;
      i += right.size;
    }
  });
  safe_breaks_ = true;
}

// ---- tokenizing ----

void Bpe::Tokenize(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.empty()) return;
  if (options_.ignore_merges || options_.ignore_merges_newlines) {
    const bool applies = options_.ignore_merges || piece.find_first_not_of('\n') == std::string_view::npos;
    const int32_t id = applies ? symbols_.Find(piece) : PieceMap::kMissing;
    if (id != PieceMap::kMissing && id < first_virtual_) {
      out.push_back(id);
      return;
    }
  }
  if (!safe_breaks_) {
    TokenizeCached(piece, out);
    return;
  }
  size_t begin = 0;
  Character left = ReadValidCharacter(piece, 0);
  for (size_t i = left.size; i < piece.size();) {
    const Character right = ReadValidCharacter(piece, i);
    if (BreaksBetween(left.code, right.code)) {
      TokenizeCached(piece.substr(begin, i - begin), out);
      begin = i;
    }
    left = right;
    i += right.size;
  }
  TokenizeCached(piece.substr(begin), out);
}

void Bpe::TokenizeCached(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.size() > PieceCache::kMaxBytes) {
    TokenizeUncached(piece, out);
    return;
  }
  PieceCache::Entry& entry = ThreadCache().At(piece, serial_);
  if (entry.serial == serial_ && entry.size == piece.size() &&
      std::memcmp(entry.bytes, piece.data(), piece.size()) == 0) {
    out.insert(out.end(), entry.ids, entry.ids + entry.ids_size);
    return;
  }
  const size_t before = out.size();
  TokenizeUncached(piece, out);
  const size_t added = out.size() - before;
  if (added > PieceCache::kMaxIds) return;
  entry.serial = serial_;
  entry.size = static_cast<uint8_t>(piece.size());
  entry.ids_size = static_cast<uint8_t>(added);
  std::memcpy(entry.bytes, piece.data(), piece.size());
  std::copy(out.begin() + static_cast<ptrdiff_t>(before), out.end(), entry.ids);
}

void Bpe::TokenizeUncached(std::string_view piece, std::vector<TokenId>& out) const {
  thread_local std::vector<int32_t> symbols;
  symbols.clear();
  StartSymbols(piece, symbols);
  if (symbols.size() <= kShort) {
    MergeShort(symbols);
  } else {
    MergeLong(symbols);
  }
  for (const int32_t symbol : symbols) Emit(symbol, out);
  if (symbols.capacity() > (1u << 20)) symbols = {};
}

void Bpe::StartSymbols(std::string_view piece, std::vector<int32_t>& symbols) const {
  if (options_.byte_level) {
    std::optional<TokenId> pending;
    for (const char c : piece) {
      const int32_t id = byte_symbol_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        if (pending) symbols.push_back(*pending);
        pending.reset();
        symbols.push_back(id);
      } else if (options_.unknown) {
        if (pending && !options_.fuse_unknown) symbols.push_back(*pending);
        pending = options_.unknown;
      }
    }
    if (pending) symbols.push_back(*pending);
    return;
  }
  std::optional<TokenId> pending;
  std::string spelled;
  const bool plain = options_.continuing_prefix.empty() && options_.end_suffix.empty();
  for (size_t i = 0; i < piece.size();) {
    const size_t size = ReadValidCharacter(piece, i).size;
    if (plain) {
      StartSymbol(piece.substr(i, size), symbols, pending);
    } else {
      spelled.clear();
      if (i > 0) spelled += options_.continuing_prefix;
      spelled += piece.substr(i, size);
      if (i + size == piece.size()) spelled += options_.end_suffix;
      StartSymbol(spelled, symbols, pending);
    }
    i += size;
  }
  if (pending) symbols.push_back(*pending);
}

// The order of the cases, and that a byte fallback does not flush a pending unknown token, are those of
// Hugging Face's tokenizers (models/bpe/model.rs, merge_word), since ids must agree.
void Bpe::StartSymbol(std::string_view spelled, std::vector<int32_t>& symbols,
                      std::optional<TokenId>& pending) const {
  const int32_t id = symbols_.Find(spelled);
  if (id != PieceMap::kMissing) {
    if (pending) symbols.push_back(*pending);
    pending.reset();
    symbols.push_back(id);
    return;
  }
  if (options_.byte_fallback) {
    const bool all = has_all_byte_tokens_ || std::all_of(spelled.begin(), spelled.end(), [&](char c) {
                       return byte_token_[static_cast<uint8_t>(c)] >= 0;
                     });
    if (all) {
      for (const char c : spelled) symbols.push_back(byte_token_[static_cast<uint8_t>(c)]);
      return;
    }
  }
  if (!options_.unknown) return;
  if (pending && !options_.fuse_unknown) symbols.push_back(*pending);
  pending = options_.unknown;
}

void Bpe::MergeShort(std::vector<int32_t>& symbols) const {
  size_t n = symbols.size();
  if (n < 2) return;
  MergeTable::Merge merges[kShort];
  for (size_t i = 0; i + 1 < n; ++i) merges[i] = merges_.Find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == MergeTable::kNone) break;
    symbols[best] = merges[best].result;
    for (size_t i = best + 1; i + 1 < n; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 2 < n; ++i) merges[i] = merges[i + 1];
    --n;
    if (best > 0) merges[best - 1] = merges_.Find(symbols[best - 1], symbols[best]);
    if (best + 1 < n) merges[best] = merges_.Find(symbols[best], symbols[best + 1]);
  }
  symbols.resize(n);
}

// A heap of (rank, position); entries whose pair has changed since are recognised by their rank and skipped.
// Each merge removes a symbol and pushes at most two entries: n log n.
void Bpe::MergeLong(std::vector<int32_t>& symbols) const {
  const size_t n = symbols.size();
  struct Link {
    uint32_t previous, next;
  };
  constexpr uint32_t kEnd = UINT32_MAX;
  std::vector<Link> links(n);
  std::vector<uint64_t> start;
  start.reserve(n);
  const auto entry = [](uint32_t rank, uint32_t position) {
    return static_cast<uint64_t>(rank) << 32 | position;
  };
  for (size_t i = 0; i < n; ++i) {
    const auto at = static_cast<uint32_t>(i);
    links[i] = {i == 0 ? kEnd : at - 1, i + 1 == n ? kEnd : at + 1};
    if (i + 1 == n) break;
    const auto merge = merges_.Find(symbols[i], symbols[i + 1]);
    if (merge.rank != MergeTable::kNone) start.push_back(entry(merge.rank, at));
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap(std::greater<>{},
                                                                            std::move(start));
  constexpr int32_t kGone = -1;
  const auto push = [&](uint32_t left) {
    const auto merge = merges_.Find(symbols[left], symbols[links[left].next]);
    if (merge.rank != MergeTable::kNone) heap.push(entry(merge.rank, left));
  };
  while (!heap.empty()) {
    const auto rank = static_cast<uint32_t>(heap.top() >> 32);
    const auto left = static_cast<uint32_t>(heap.top());
    heap.pop();
    const uint32_t right = links[left].next;
    if (symbols[left] == kGone || right == kEnd) continue;
    const auto merge = merges_.Find(symbols[left], symbols[right]);
    if (merge.rank != rank) continue;
    symbols[left] = merge.result;
    symbols[right] = kGone;
    links[left].next = links[right].next;
    if (links[left].next != kEnd) {
      links[links[left].next].previous = left;
      push(left);
    }
    if (links[left].previous != kEnd) push(links[left].previous);
  }
  std::erase(symbols, kGone);
}

}  // namespace tidepool::text
