#include "compute/kv/block_pool.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "compute/kv/block_pool_internal.h"

namespace tidepool::compute {
namespace {

constexpr size_t kTokens = chips::kKvBlockTokens;

}  // namespace

// 64 bits are enough: the hash only finds candidates, equality is checked on the content itself.
uint64_t internal::KvChainHash(uint64_t predecessor, const int32_t* tokens) {
  return XXH3_64bits_withSeed(tokens, kTokens * sizeof(int32_t), predecessor);
}

std::string_view KvPlaceName(KvPlace place) {
  switch (place) {
    case KvPlace::kNone: return "none";
    case KvPlace::kResident: return "resident";
    case KvPlace::kSpilling: return "spilling";
    case KvPlace::kSpilled: return "spilled";
    case KvPlace::kRestoring: return "restoring";
    case KvPlace::kDropped: return "dropped";
  }
  return "unknown";
}

using internal::KvChainHash;

KvSequence::~KvSequence() { CHECK(place_ == KvPlace::kNone || place_ == KvPlace::kDropped); }

BlockPool::BlockPool(chips::Device& device, Ledger& ledger, BlockPoolOptions options)
    : device_(device), ledger_(ledger), options_(std::move(options)) {
  CHECK(options_.block_bytes > 0);
  content_ = XXH3_64bits_withSeed(content_key().data(), content_key().size(), options_.block_bytes);
  if (options_.reserve != nullptr) options_.reserve->AddUser();
}

BlockPool::~BlockPool() {
  CHECK(free_ + cached_ == total_ && reserved_ == 0 && moves_.empty());
  if (options_.reserve == nullptr) return;
  for (const auto& slab : slabs_) ReturnMemory(*slab);
  options_.reserve->RemoveUser();
}

const std::string& BlockPool::content_key() const {
  return options_.content_key.empty() ? options_.owner : options_.content_key;
}

// ---- slabs -------------------------------------------------------------------------------------------

bool BlockPool::EnsureAvailable(int32_t blocks) {
  // Room in the ledger is taken before cached blocks are given up: the cache grows while there is room.
  const auto wanted = [&] { return blocks - (free_ - reserved_); };
  if (wanted() <= 0) return true;
  const int32_t usual = UsualSlabBlocks();
  if (Grow(std::max(wanted(), usual))) return true;
  // What came from the reserve stays, also when the rest could not be had.
  if (wanted() <= 0 || (wanted() < usual && Grow(wanted()))) return true;
  const int32_t missing = blocks - (free_ + cached_ - reserved_);
  return missing <= 0 || Grow(missing);
}

bool BlockPool::Grow(int32_t blocks) {
  // Cheaper than building the ledger's message.
  if (static_cast<uint64_t>(blocks) * options_.block_bytes > ledger_.free()) return false;
  blocks -= GrowFromReserve(blocks);
  // In slabs of the usual size, also where one sequence wants many: a slab goes back when all of its blocks
  // are free, and the sequences that come after one another share them.
  for (; blocks > 0; blocks -= std::min(blocks, UsualSlabBlocks())) {
    if (!GrowFresh(std::min(blocks, UsualSlabBlocks()))) return false;
  }
  return true;
}

bool BlockPool::GrowFresh(int32_t blocks) {
  const uint64_t bytes = static_cast<uint64_t>(blocks) * options_.block_bytes;
  auto charge = ledger_.TryTake(options_.owner, ChargeKind::kKv, bytes);
  if (!charge) return false;
  auto memory = device_.Allocate(bytes);
  if (!memory) return false;
  if (options_.reserve != nullptr) options_.reserve->CountFresh(bytes);
  auto slab = std::make_unique<Slab>();
  slab->charge = std::move(*charge);
  slab->memory = std::move(*memory);
  std::byte* const data = slab->memory.data();
  AddSlab(std::move(slab), data, blocks);
  return true;
}

// As many of the blocks as are ready, in runs of a usual slab (or all that is wanted).
int32_t BlockPool::GrowFromReserve(int32_t blocks) {
  int32_t taken = 0;
  while (options_.reserve != nullptr && taken < blocks) {
    const int32_t most = std::min(blocks - taken, UsualSlabBlocks());
    auto region = options_.reserve->Take(options_.owner, options_.block_bytes, static_cast<uint64_t>(most),
                                         static_cast<uint64_t>(most));
    if (!region) break;
    const auto count = static_cast<int32_t>(
        std::min<uint64_t>(region->bytes / options_.block_bytes, static_cast<uint64_t>(most)));
    auto slab = std::make_unique<Slab>();
    slab->charge = std::move(region->charge);
    slab->region = std::move(*region);
    std::byte* const data = slab->region->data;
    AddSlab(std::move(slab), data, count);
    taken += count;
  }
  return taken;
}

void BlockPool::AddSlab(std::unique_ptr<Slab> slab, std::byte* data, int32_t blocks) {
  slab->index = slabs_.size();
  slab->blocks.resize(static_cast<size_t>(blocks));
  slab->free_bits.assign((slab->blocks.size() + 63) / 64, 0);
  for (size_t i = 0; i < slab->blocks.size(); ++i) {
    slab->blocks[i].slab = slab.get();
    slab->blocks[i].data = data + i * options_.block_bytes;
    slab->free_bits[i / 64] |= uint64_t{1} << (i % 64);
  }
  slab->free = blocks;
  first_free_slab_ = std::min(first_free_slab_, slab->index);
  total_ += blocks;
  free_ += blocks;
  bytes_ += slab->charge.bytes();
  slabs_.push_back(std::move(slab));
  Rehash(static_cast<size_t>(total_));
}

// To the reserve, if there is one, which keeps it or gives it back.
void BlockPool::ReturnMemory(Slab& slab) {
  if (slab.region) {
    slab.region->charge = std::move(slab.charge);
    options_.reserve->Return(*std::exchange(slab.region, std::nullopt));
  } else if (options_.reserve != nullptr) {
    options_.reserve->Return(std::move(slab.memory), std::move(slab.charge));
  }
}

void BlockPool::ReleaseSlab(size_t index) {
  Slab& slab = *slabs_[index];
  CHECK(slab.pinned == 0);
  for (Block& block : slab.blocks) {
    if (block.registered) Evict(&block);
  }
  const auto count = static_cast<int32_t>(slab.blocks.size());
  total_ -= count;
  free_ -= count;
  bytes_ -= slab.charge.bytes();
  ReturnMemory(slab);
  slabs_.erase(slabs_.begin() + static_cast<ptrdiff_t>(index));
  for (size_t i = index; i < slabs_.size(); ++i) slabs_[i]->index = i;
  first_free_slab_ = 0;
}

uint64_t BlockPool::Shrink(uint64_t bytes) {
  uint64_t freed = 0;
  for (const bool with_cache : {false, true}) {
    for (size_t i = slabs_.size(); i-- > 0 && freed < bytes;) {
      const Slab& slab = *slabs_[i];
      const auto count = static_cast<int32_t>(slab.blocks.size());
      if (slab.pinned > 0 || (!with_cache && slab.free < count)) continue;
      if (free_ + cached_ - count < reserved_) continue;
      freed += slab.charge.bytes();
      ReleaseSlab(i);
    }
  }
  return freed;
}

uint64_t BlockPool::shrinkable_bytes() const {
  uint64_t bytes = 0;
  int32_t spare = free_ + cached_ - reserved_;
  for (const auto& slab : slabs_) {
    const auto count = static_cast<int32_t>(slab->blocks.size());
    if (slab->pinned > 0 || count > spare) continue;
    spare -= count;
    bytes += slab->charge.bytes();
  }
  return bytes;
}

// ---- blocks ------------------------------------------------------------------------------------------

void BlockPool::Evict(Block* block) {
  LruRemove(block);
  Unregister(block);
  FreeBlock(block);
}

BlockPool::Block* BlockPool::TakeBlock(const Block* after) {
  if (free_ == 0) {
    CHECK(lru_oldest_ != nullptr);  // else a promise was broken
    Evict(lru_oldest_);
    ++counts_.evictions;
  }
  Slab* slab = nullptr;
  size_t i = 0;
  if (after != nullptr) {  // a sequence whose blocks lie side by side moves in few copies
    i = after->slab->IndexOf(after) + 1;
    if (i < after->slab->blocks.size() && after->slab->IsFree(i)) slab = after->slab;
  }
  if (slab == nullptr) {
    while (slabs_[first_free_slab_]->free == 0) ++first_free_slab_;
    slab = slabs_[first_free_slab_].get();
    size_t word = 0;
    while (slab->free_bits[word] == 0) ++word;
    i = word * 64 + static_cast<size_t>(std::countr_zero(slab->free_bits[word]));
  }
  slab->free_bits[i / 64] &= ~(uint64_t{1} << (i % 64));
  --slab->free;
  --free_;
  ++slab->pinned;
  slab->blocks[i].references = 1;
  return &slab->blocks[i];
}

// The block is held by nobody, not registered and not on the LRU list.
void BlockPool::FreeBlock(Block* block) {
  Slab& slab = *block->slab;
  const size_t i = slab.IndexOf(block);
  slab.free_bits[i / 64] |= uint64_t{1} << (i % 64);
  ++slab.free;
  ++free_;
  first_free_slab_ = std::min(first_free_slab_, slab.index);
}

void BlockPool::Reference(Block* block) {
  if (!block->pinned()) {
    LruRemove(block);
    ++block->slab->pinned;
  }
  ++block->references;
}

void BlockPool::Unreference(Block* block) {
  CHECK(block->references > 0);
  --block->references;
  Unpin(block);
}

void BlockPool::Unpin(Block* block) {
  if (block->pinned()) return;
  --block->slab->pinned;
  if (block->registered) {
    LruPush(block);
  } else {
    FreeBlock(block);
  }
}

void BlockPool::LruPush(Block* block) {
  block->lru_older = lru_newest_;
  block->lru_newer = nullptr;
  if (lru_newest_ != nullptr) lru_newest_->lru_newer = block;
  lru_newest_ = block;
  if (lru_oldest_ == nullptr) lru_oldest_ = block;
  ++cached_;
}

void BlockPool::LruRemove(Block* block) {
  (block->lru_newer != nullptr ? block->lru_newer->lru_older : lru_newest_) = block->lru_older;
  (block->lru_older != nullptr ? block->lru_older->lru_newer : lru_oldest_) = block->lru_newer;
  block->lru_newer = block->lru_older = nullptr;
  --cached_;
}

// ---- sequences ---------------------------------------------------------------------------------------

bool BlockPool::Admit(const AdmitRequest& request, KvSequence& sequence) {
  CHECK(sequence.place_ == KvPlace::kNone);
  sequence.shares_ = options_.prefix_cache && request.share;
  if (sequence.shares_) sequence.workspace_name_ = request.workspace;
  return Place(request.prompt, request.max_tokens, request.match_prefix, sequence);
}

bool BlockPool::Place(std::span<const int32_t> tokens, int32_t max_tokens, bool match, KvSequence& sequence) {
  CHECK(!tokens.empty() && max_tokens >= static_cast<int32_t>(tokens.size()));
  const int32_t blocks = BlocksFor(max_tokens);
  sequence.blocks_.reserve(static_cast<size_t>(blocks));
  sequence.table_.reserve(static_cast<size_t>(blocks));
  const size_t computable = (tokens.size() - 1) / kTokens;  // the last token is always computed
  JoinWorkspace(sequence);
  if (match) MatchPrefix(tokens, computable, sequence);
  const int32_t needed = blocks - static_cast<int32_t>(sequence.blocks_.size());
  if (!EnsureAvailable(needed)) {
    ReleaseDevice(sequence);
    return false;
  }
  sequence.reserved_ = needed;
  reserved_ += needed;
  sequence.cached_tokens_ = sequence.registered_ * chips::kKvBlockTokens;
  sequence.content_ = content_;
  sequence.block_bytes_ = options_.block_bytes;
  sequence.place_ = KvPlace::kResident;
  return true;
}

bool BlockPool::Reserve(KvSequence& sequence, int32_t tokens) {
  CHECK(sequence.place_ == KvPlace::kResident && sequence.content_ == content_);
  const int32_t blocks = BlocksFor(tokens);
  const int32_t more = blocks - static_cast<int32_t>(sequence.blocks_.size()) - sequence.reserved_;
  if (more <= 0) return true;
  if (!EnsureAvailable(more)) return false;
  if (sequence.blocks_.capacity() < static_cast<size_t>(blocks)) {
    const size_t capacity = std::max(static_cast<size_t>(blocks), 2 * sequence.blocks_.capacity());
    sequence.blocks_.reserve(capacity);
    sequence.table_.reserve(capacity);
  }
  sequence.reserved_ += more;
  reserved_ += more;
  return true;
}

void BlockPool::MatchPrefix(std::span<const int32_t> tokens, size_t most, KvSequence& sequence) {
  if (sequence.workspace_ == nullptr) return;
  for (size_t i = 0; i < most; ++i) {
    const int32_t* block_tokens = tokens.data() + i * kTokens;
    const uint64_t hash = KvChainHash(sequence.chain_hash_, block_tokens);
    Block* block = Find(hash, sequence.workspace_, sequence.chain_serial_, block_tokens);
    if (block == nullptr) break;
    Reference(block);
    sequence.blocks_.push_back(block);
    sequence.table_.push_back(block->data);
    sequence.chain_hash_ = hash;
    sequence.chain_serial_ = block->serial;
    ++sequence.registered_;
  }
}

void BlockPool::Extend(KvSequence& sequence, int32_t tokens) {
  CHECK(sequence.place_ == KvPlace::kResident);
  const auto blocks = static_cast<size_t>(BlocksFor(tokens));
  while (sequence.blocks_.size() < blocks) {
    CHECK(sequence.reserved_ > 0);
    --sequence.reserved_;
    --reserved_;
    Block* block = TakeBlock(sequence.blocks_.empty() ? nullptr : sequence.blocks_.back());
    sequence.blocks_.push_back(block);
    sequence.table_.push_back(block->data);
  }
}

void BlockPool::Commit(KvSequence& sequence, std::span<const int32_t> history) {
  CHECK(sequence.place_ == KvPlace::kResident);
  if (sequence.workspace_ == nullptr) return;
  const size_t complete = history.size() / kTokens;
  CHECK(complete <= sequence.blocks_.size());
  for (auto i = static_cast<size_t>(sequence.registered_); i < complete; ++i) {
    const int32_t* tokens = history.data() + i * kTokens;
    const uint64_t hash = KvChainHash(sequence.chain_hash_, tokens);
    Block* block = sequence.blocks_[i];
    if (Block* twin = Find(hash, sequence.workspace_, sequence.chain_serial_, tokens); twin != nullptr) {
      Reference(twin);
      Unreference(block);
      block = twin;
      sequence.blocks_[i] = twin;
      sequence.table_[i] = twin->data;
    } else {
      Register(block, hash, sequence.workspace_, sequence.chain_serial_, tokens);
    }
    sequence.chain_hash_ = hash;
    sequence.chain_serial_ = block->serial;
    ++sequence.registered_;
  }
}

void BlockPool::JoinWorkspace(KvSequence& sequence) {
  if (!sequence.shares_ || !options_.prefix_cache) return;
  sequence.workspace_ = AcquireWorkspace(sequence.workspace_name_);
  sequence.chain_hash_ = sequence.workspace_->seed;
  sequence.chain_serial_ = sequence.workspace_->serial;
}

// Gives back the references that are held, deepest first, the reservation and the workspace.
void BlockPool::ReleaseDevice(KvSequence& sequence) {
  for (size_t i = sequence.blocks_.size(); i-- > 0;) Unreference(sequence.blocks_[i]);
  ForgetDevice(sequence);
}

void BlockPool::ForgetDevice(KvSequence& sequence) {
  reserved_ -= sequence.reserved_;
  if (sequence.workspace_ != nullptr) DropWorkspace(sequence.workspace_);
  sequence.blocks_.clear();
  sequence.table_.clear();
  sequence.workspace_ = nullptr;
  sequence.reserved_ = 0;
  sequence.registered_ = 0;
}

// ---- prefix cache ------------------------------------------------------------------------------------

BlockPool::Block* BlockPool::Find(uint64_t hash, const Workspace* workspace, uint64_t predecessor,
                                  const int32_t* tokens) const {
  if (buckets_.empty()) return nullptr;
  for (Block* block = buckets_[hash & (buckets_.size() - 1)]; block != nullptr; block = block->bucket_next) {
    if (block->hash == hash && block->workspace == workspace && block->predecessor == predecessor &&
        std::memcmp(block->tokens, tokens, sizeof(block->tokens)) == 0) {
      return block;
    }
  }
  return nullptr;
}

void BlockPool::Register(Block* block, uint64_t hash, Workspace* workspace, uint64_t predecessor,
                         const int32_t* tokens) {
  CHECK(!block->registered && block->references == 1 && block->copies == 0);
  block->registered = true;
  ++registered_;
  block->hash = hash;
  block->serial = next_serial_++;
  block->predecessor = predecessor;
  block->workspace = workspace;
  ++block->workspace->holders;
  std::memcpy(block->tokens, tokens, sizeof(block->tokens));
  Block*& bucket = buckets_[hash & (buckets_.size() - 1)];
  block->bucket_next = bucket;
  bucket = block;
}

void BlockPool::Unregister(Block* block) {
  Block** link = &buckets_[block->hash & (buckets_.size() - 1)];
  while (*link != block) link = &(*link)->bucket_next;
  *link = block->bucket_next;
  block->bucket_next = nullptr;
  block->registered = false;
  --registered_;
  DropWorkspace(block->workspace);
  block->workspace = nullptr;
}

void BlockPool::Rehash(size_t blocks) {
  size_t size = std::max<size_t>(buckets_.size(), 64);
  while (size < 2 * blocks) size *= 2;
  if (size == buckets_.size()) return;
  buckets_.assign(size, nullptr);
  for (const auto& slab : slabs_) {
    for (Block& block : slab->blocks) {
      if (!block.registered) continue;
      Block*& bucket = buckets_[block.hash & (size - 1)];
      block.bucket_next = bucket;
      bucket = &block;
    }
  }
}

BlockPool::Workspace* BlockPool::AcquireWorkspace(std::string_view name) {
  auto entry = workspaces_.find(name);
  if (entry == workspaces_.end()) {
    auto workspace = std::make_unique<Workspace>();
    workspace->name = name;
    workspace->serial = next_serial_++;
    workspace->seed = XXH3_64bits(name.data(), name.size());
    entry = workspaces_.emplace(std::string(name), std::move(workspace)).first;
  }
  ++entry->second->holders;
  return entry->second.get();
}

void BlockPool::DropWorkspace(Workspace* workspace) {
  CHECK(workspace->holders > 0);
  if (--workspace->holders == 0) workspaces_.erase(workspaces_.find(workspace->name));
}

// ---- accounting --------------------------------------------------------------------------------------

BlockPoolStats BlockPool::stats() const {
  BlockPoolStats stats = counts_;
  stats.total = total_;
  stats.free = free_;
  stats.used = total_ - free_ - cached_ - moving_;
  stats.cached = cached_;
  stats.moving = moving_;
  stats.reserved = reserved_;
  stats.slabs = static_cast<int32_t>(slabs_.size());
  stats.bytes = bytes_;
  return stats;
}

}  // namespace tidepool::compute
