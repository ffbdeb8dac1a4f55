// The prefix cache as a list: for files (prefix_cache_file.h).
#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "compute/kv/block_pool.h"
#include "compute/kv/block_pool_internal.h"

namespace tidepool::compute {

std::vector<BlockPool::CachedBlock> BlockPool::CachedBlocks(int32_t max_blocks) const {
  // Held blocks were used last of all. Their order is that of their registration, which comes after that of
  // the block they continue. Unreferenced ones: a block was released after those that continue it.
  std::vector<const Block*> blocks;
  for (const auto& slab : slabs_) {
    for (const Block& block : slab->blocks) {
      if (block.registered && block.pinned()) blocks.push_back(&block);
    }
  }
  std::sort(blocks.begin(), blocks.end(),
            [](const Block* a, const Block* b) { return a->serial < b->serial; });
  for (const Block* block = lru_newest_; block != nullptr; block = block->lru_older) blocks.push_back(block);
  if (blocks.size() > static_cast<size_t>(std::max(max_blocks, 0))) {
    blocks.resize(static_cast<size_t>(std::max(max_blocks, 0)));
  }

  std::unordered_map<uint64_t, int32_t> index_of_serial;
  std::vector<CachedBlock> list;
  list.reserve(blocks.size());
  for (const Block* block : blocks) {
    CachedBlock cached{
        .workspace = block->workspace->name, .predecessor = -1, .tokens = block->tokens, .data = block->data};
    if (block->predecessor != block->workspace->serial) {
      const auto predecessor = index_of_serial.find(block->predecessor);
      CHECK(predecessor != index_of_serial.end());
      cached.predecessor = predecessor->second;
    }
    index_of_serial.emplace(block->serial, static_cast<int32_t>(list.size()));
    list.push_back(cached);
  }
  return list;
}

BlockPool::CacheLoader::Added BlockPool::CacheLoader::Add(std::string_view workspace, int32_t predecessor,
                                                          std::span<const int32_t> tokens, std::byte** data) {
  CHECK(tokens.size() == static_cast<size_t>(chips::kKvBlockTokens));
  CHECK(predecessor >= -1 && predecessor < static_cast<int32_t>(blocks_.size()));
  const auto before = static_cast<size_t>(std::max(predecessor, 0));
  blocks_.push_back(nullptr);
  added_.push_back(false);
  hashes_.push_back(0);
  if (!pool_.options_.prefix_cache || (predecessor >= 0 && blocks_[before] == nullptr)) return Added::kNoRoom;

  Workspace* home = pool_.AcquireWorkspace(workspace);
  CHECK(predecessor < 0 || blocks_[before]->workspace == home);
  const uint64_t serial = predecessor < 0 ? home->serial : blocks_[before]->serial;
  const uint64_t hash = internal::KvChainHash(predecessor < 0 ? home->seed : hashes_[before], tokens.data());
  Added result = Added::kHeld;
  Block* block = pool_.Find(hash, home, serial, tokens.data());
  if (block != nullptr) {
    pool_.Reference(block);
  } else if (pool_.HasUnpromised()) {
    block = pool_.TakeBlock(nullptr);
    pool_.Register(block, hash, home, serial, tokens.data());
    *data = block->data;
    result = Added::kFill;
  } else {
    result = Added::kNoRoom;
  }
  pool_.DropWorkspace(home);
  blocks_.back() = block;
  added_.back() = result == Added::kFill;
  hashes_.back() = hash;
  return result;
}

// A free block that no reservation counts on; the pool may grow for it, nothing is evicted.
bool BlockPool::HasUnpromised() {
  if (free_ > reserved_) return true;
  return (Grow(UsualSlabBlocks()) || Grow(1)) && free_ > reserved_;
}

// Deepest first, so that the LRU order is the list's.
void BlockPool::CacheLoader::Keep() {
  for (size_t i = blocks_.size(); i-- > 0;) {
    if (blocks_[i] != nullptr) pool_.Unreference(blocks_[i]);
  }
  blocks_.clear();
}

BlockPool::CacheLoader::~CacheLoader() {
  for (size_t i = blocks_.size(); i-- > 0;) {
    if (blocks_[i] == nullptr) continue;
    if (added_[i]) pool_.Unregister(blocks_[i]);
    pool_.Unreference(blocks_[i]);
  }
}

}  // namespace tidepool::compute
