#include "compute/kv/block_pool.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace tidepool::compute {
namespace internal {

struct KvWorkspace {
  std::string name;
  uint64_t serial = 0;  // predecessor of every first block
  uint64_t seed = 0;
  int64_t holders = 0;  // registered blocks and admitted sequences
};

struct KvBlock {
  KvSlab* slab = nullptr;
  std::byte* data = nullptr;
  int32_t references = 0;
  bool registered = false;
  // Valid while registered.
  uint64_t hash = 0;
  uint64_t serial = 0;       // of this content; never used twice
  uint64_t predecessor = 0;  // serial of the block it continues
  KvWorkspace* workspace = nullptr;
  int32_t tokens[chips::kKvBlockTokens];
  KvBlock* bucket_next = nullptr;
  KvBlock* lru_newer = nullptr;  // while cached
  KvBlock* lru_older = nullptr;
  KvBlock* free_next = nullptr;  // while free
};

struct KvSlab {
  Charge charge;  // declared first: given back after the memory
  chips::DeviceBuffer memory;
  std::vector<KvBlock> blocks;
  size_t index = 0;
  KvBlock* free_list = nullptr;
  int32_t free = 0;
  int32_t used = 0;
};

}  // namespace internal

namespace {

constexpr size_t kTokens = chips::kKvBlockTokens;

// 64 bits are enough: the hash only finds candidates, equality is checked on the content itself.
uint64_t ChainHash(uint64_t predecessor, const int32_t* tokens) {
  return XXH3_64bits_withSeed(tokens, kTokens * sizeof(int32_t), predecessor);
}

}  // namespace

KvSequence::~KvSequence() { CHECK(!admitted_); }

BlockPool::BlockPool(chips::Device& device, Ledger& ledger, BlockPoolOptions options)
    : device_(device), ledger_(ledger), options_(std::move(options)) {
  CHECK(options_.block_bytes > 0);
}

BlockPool::~BlockPool() { CHECK(free_ + cached_ == total_ && reserved_ == 0); }

// ---- slabs -------------------------------------------------------------------------------------------

bool BlockPool::EnsureAvailable(int32_t blocks) {
  // Room in the ledger is taken before cached blocks are given up: the cache grows while there is room.
  const int32_t wanted = blocks - (free_ - reserved_);
  if (wanted <= 0) return true;
  const int32_t slab_blocks =
      static_cast<int32_t>(std::max<uint64_t>(1, options_.slab_bytes / options_.block_bytes));
  if (Grow(std::max(wanted, slab_blocks)) || (wanted < slab_blocks && Grow(wanted))) return true;
  const int32_t missing = blocks - (free_ + cached_ - reserved_);
  return missing <= 0 || Grow(missing);
}

bool BlockPool::Grow(int32_t blocks) {
  const uint64_t bytes = static_cast<uint64_t>(blocks) * options_.block_bytes;
  if (bytes > ledger_.free()) return false;  // cheaper than building the ledger's message
  auto charge = ledger_.TryTake(options_.owner, ChargeKind::kKv, bytes);
  if (!charge) return false;
  auto memory = device_.Allocate(bytes);
  if (!memory) return false;
  auto slab = std::make_unique<Slab>();
  slab->charge = std::move(*charge);
  slab->memory = std::move(*memory);
  slab->index = slabs_.size();
  slab->blocks.resize(static_cast<size_t>(blocks));
  for (int32_t i = blocks - 1; i >= 0; --i) {
    Block& block = slab->blocks[static_cast<size_t>(i)];
    block.slab = slab.get();
    block.data = slab->memory.data() + static_cast<size_t>(i) * options_.block_bytes;
    block.free_next = slab->free_list;
    slab->free_list = &block;
  }
  slab->free = blocks;
  first_free_slab_ = std::min(first_free_slab_, slab->index);
  slabs_.push_back(std::move(slab));
  total_ += blocks;
  free_ += blocks;
  bytes_ += bytes;
  Rehash(static_cast<size_t>(total_));
  return true;
}

void BlockPool::ReleaseSlab(size_t index) {
  Slab& slab = *slabs_[index];
  CHECK(slab.used == 0);
  for (Block& block : slab.blocks) {
    if (!block.registered) continue;
    LruRemove(&block);
    Unregister(&block);
    FreeBlock(&block);
  }
  const auto count = static_cast<int32_t>(slab.blocks.size());
  total_ -= count;
  free_ -= count;
  bytes_ -= slab.charge.bytes();
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
      if (slab.used > 0 || (!with_cache && slab.free < count)) continue;
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
    if (slab->used > 0 || count > spare) continue;
    spare -= count;
    bytes += slab->charge.bytes();
  }
  return bytes;
}

// ---- blocks ------------------------------------------------------------------------------------------

BlockPool::Block* BlockPool::TakeBlock() {
  if (free_ == 0) {
    Block* oldest = lru_oldest_;
    CHECK(oldest != nullptr);  // else a promise was broken
    LruRemove(oldest);
    Unregister(oldest);
    FreeBlock(oldest);
    ++evictions_;
  }
  while (slabs_[first_free_slab_]->free == 0) ++first_free_slab_;
  Slab& slab = *slabs_[first_free_slab_];
  Block* block = slab.free_list;
  slab.free_list = block->free_next;
  block->free_next = nullptr;
  --slab.free;
  --free_;
  ++slab.used;
  block->references = 1;
  return block;
}

// The block has no references, is not registered and not on the LRU list.
void BlockPool::FreeBlock(Block* block) {
  Slab& slab = *block->slab;
  block->free_next = slab.free_list;
  slab.free_list = block;
  ++slab.free;
  ++free_;
  first_free_slab_ = std::min(first_free_slab_, slab.index);
}

void BlockPool::Reference(Block* block) {
  if (block->references++ == 0) {
    LruRemove(block);
    ++block->slab->used;
  }
}

void BlockPool::Unreference(Block* block) {
  CHECK(block->references > 0);
  if (--block->references > 0) return;
  --block->slab->used;
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
  CHECK(!sequence.admitted_ && !request.prompt.empty());
  CHECK(request.max_tokens >= static_cast<int32_t>(request.prompt.size()));
  const int32_t blocks = BlocksFor(request.max_tokens);
  sequence.blocks_.reserve(static_cast<size_t>(blocks));
  sequence.table_.reserve(static_cast<size_t>(blocks));
  if (options_.prefix_cache && request.share) {
    sequence.workspace_ = AcquireWorkspace(request.workspace);
    sequence.chain_hash_ = sequence.workspace_->seed;
    sequence.chain_serial_ = sequence.workspace_->serial;
    if (request.match_prefix) MatchPrefix(request, sequence);
  }
  sequence.admitted_ = true;
  const int32_t needed = blocks - static_cast<int32_t>(sequence.blocks_.size());
  if (!EnsureAvailable(needed)) {
    Release(sequence);
    return false;
  }
  sequence.reserved_ = needed;
  reserved_ += needed;
  return true;
}

void BlockPool::MatchPrefix(const AdmitRequest& request, KvSequence& sequence) {
  const size_t usable = (request.prompt.size() - 1) / kTokens;  // the last token is always computed
  for (size_t i = 0; i < usable; ++i) {
    const int32_t* tokens = request.prompt.data() + i * kTokens;
    const uint64_t hash = ChainHash(sequence.chain_hash_, tokens);
    Block* block = Find(hash, sequence, tokens);
    if (block == nullptr) break;
    Reference(block);
    sequence.blocks_.push_back(block);
    sequence.table_.push_back(block->data);
    sequence.chain_hash_ = hash;
    sequence.chain_serial_ = block->serial;
  }
  sequence.registered_ = static_cast<int32_t>(sequence.blocks_.size());
  sequence.cached_tokens_ = sequence.registered_ * chips::kKvBlockTokens;
}

void BlockPool::Extend(KvSequence& sequence, int32_t tokens) {
  const auto blocks = static_cast<size_t>(BlocksFor(tokens));
  while (sequence.blocks_.size() < blocks) {
    CHECK(sequence.reserved_ > 0);
    --sequence.reserved_;
    --reserved_;
    Block* block = TakeBlock();
    sequence.blocks_.push_back(block);
    sequence.table_.push_back(block->data);
  }
}

void BlockPool::Commit(KvSequence& sequence, std::span<const int32_t> history) {
  if (sequence.workspace_ == nullptr) return;
  const size_t complete = history.size() / kTokens;
  CHECK(complete <= sequence.blocks_.size());
  for (auto i = static_cast<size_t>(sequence.registered_); i < complete; ++i) {
    const int32_t* tokens = history.data() + i * kTokens;
    const uint64_t hash = ChainHash(sequence.chain_hash_, tokens);
    Block* block = sequence.blocks_[i];
    if (Block* twin = Find(hash, sequence, tokens); twin != nullptr) {
      Reference(twin);
      Unreference(block);
      block = twin;
      sequence.blocks_[i] = twin;
      sequence.table_[i] = twin->data;
    } else {
      Register(block, hash, sequence, tokens);
    }
    sequence.chain_hash_ = hash;
    sequence.chain_serial_ = block->serial;
    ++sequence.registered_;
  }
}

void BlockPool::Release(KvSequence& sequence) {
  if (!sequence.admitted_) return;
  for (size_t i = sequence.blocks_.size(); i-- > 0;) Unreference(sequence.blocks_[i]);
  reserved_ -= sequence.reserved_;
  if (sequence.workspace_ != nullptr) DropWorkspace(sequence.workspace_);
  sequence.blocks_.clear();
  sequence.table_.clear();
  sequence.workspace_ = nullptr;
  sequence.reserved_ = 0;
  sequence.registered_ = 0;
  sequence.cached_tokens_ = 0;
  sequence.admitted_ = false;
}

// ---- prefix cache ------------------------------------------------------------------------------------

BlockPool::Block* BlockPool::Find(uint64_t hash, const KvSequence& chain, const int32_t* tokens) const {
  if (buckets_.empty()) return nullptr;
  for (Block* block = buckets_[hash & (buckets_.size() - 1)]; block != nullptr; block = block->bucket_next) {
    if (block->hash == hash && block->workspace == chain.workspace_ &&
        block->predecessor == chain.chain_serial_ &&
        std::memcmp(block->tokens, tokens, sizeof(block->tokens)) == 0) {
      return block;
    }
  }
  return nullptr;
}

void BlockPool::Register(Block* block, uint64_t hash, const KvSequence& chain, const int32_t* tokens) {
  CHECK(!block->registered && block->references == 1);
  block->registered = true;
  block->hash = hash;
  block->serial = next_serial_++;
  block->predecessor = chain.chain_serial_;
  block->workspace = chain.workspace_;
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
  return {.total = total_,
          .free = free_,
          .used = total_ - free_ - cached_,
          .cached = cached_,
          .reserved = reserved_,
          .slabs = static_cast<int32_t>(slabs_.size()),
          .bytes = bytes_,
          .evictions = evictions_};
}

void BlockPool::CheckInvariants(std::span<const KvSequence* const> sequences) const {
  std::map<const Block*, int32_t> references;
  int64_t reserved = 0;
  int64_t holders = 0;
  for (const KvSequence* sequence : sequences) {
    CHECK(sequence->admitted_ && sequence->blocks_.size() == sequence->table_.size());
    reserved += sequence->reserved_;
    if (sequence->workspace_ != nullptr) ++holders;
    for (size_t i = 0; i < sequence->blocks_.size(); ++i) {
      const Block* block = sequence->blocks_[i];
      CHECK(sequence->table_[i] == block->data);
      CHECK(block->registered == (i < static_cast<size_t>(sequence->registered_)));
      CHECK(!block->registered || block->workspace == sequence->workspace_);
      ++references[block];
    }
  }
  CHECK(reserved == reserved_ && free_ + cached_ >= reserved_);

  int32_t total = 0, free = 0, used = 0, cached = 0, registered = 0;
  uint64_t bytes = 0;
  for (size_t s = 0; s < slabs_.size(); ++s) {
    const Slab& slab = *slabs_[s];
    CHECK(slab.index == s);
    CHECK(slab.charge.bytes() == slab.blocks.size() * options_.block_bytes);
    CHECK(slab.memory.bytes() >= slab.charge.bytes());
    CHECK(slab.free == 0 || first_free_slab_ <= s);
    bytes += slab.charge.bytes();
    total += static_cast<int32_t>(slab.blocks.size());
    int32_t listed = 0;
    for (const Block* block = slab.free_list; block != nullptr; block = block->free_next) {
      CHECK(block->slab == &slab && block->references == 0 && !block->registered);
      CHECK(++listed <= slab.free);
    }
    CHECK(listed == slab.free);
    free += listed;
    int32_t slab_used = 0;
    for (const Block& block : slab.blocks) {
      const auto held = references.find(&block);
      CHECK(block.references == (held == references.end() ? 0 : held->second));
      if (block.references > 0) ++slab_used;
      if (block.registered) ++registered;
      if (block.registered && block.references == 0) ++cached;
      // A block that shares its memory with no other sequence is not in the cache, or shared through it.
      CHECK(block.references <= 1 || block.registered);
    }
    CHECK(slab_used == slab.used);
    used += slab_used;
  }
  CHECK(total == total_ && free == free_ && cached == cached_ && bytes == bytes_);
  CHECK(free + used + cached == total);

  int32_t on_lru = 0;
  for (const Block* block = lru_newest_; block != nullptr; block = block->lru_older) {
    CHECK(block->references == 0 && block->registered && ++on_lru <= cached_);
  }
  CHECK(on_lru == cached_);
  int32_t in_buckets = 0;
  for (const Block* bucket : buckets_) {
    for (const Block* block = bucket; block != nullptr; block = block->bucket_next) ++in_buckets;
  }
  CHECK(in_buckets == registered);
  int64_t workspace_holders = 0;
  for (const auto& [name, workspace] : workspaces_) workspace_holders += workspace->holders;
  CHECK(workspace_holders == holders + registered);
}

}  // namespace tidepool::compute
