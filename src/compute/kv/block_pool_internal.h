// What block_pool.cc, block_moves.cc, cached_blocks.cc and block_pool_check.cc share; nobody else includes
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compute/kv/block_pool.h"

namespace tidepool::compute::internal {

struct KvWorkspace {
  std::string name;
  uint64_t serial = 0;  // predecessor of every first block
  uint64_t seed = 0;
  int64_t holders = 0;  // registered blocks and sequences on the device
};

struct KvBlock {
  KvSlab* slab = nullptr;
  std::byte* data = nullptr;
  int32_t references = 0;  // by sequences that are not moving this block
  int32_t copies = 0;      // moves that read or write it
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

  bool pinned() const { return references > 0 || copies > 0; }
};

struct KvSlab {
  Charge charge;  // declared first: given back after the memory
  chips::DeviceBuffer memory;
  std::optional<KvRegion> region;  // or the memory is the reserve's; `charge` has its charge
  std::vector<KvBlock> blocks;
  std::vector<uint64_t> free_bits;  // bit i: block i is free
  size_t index = 0;
  int32_t free = 0;
  int32_t pinned = 0;

  size_t IndexOf(const KvBlock* block) const { return static_cast<size_t>(block - blocks.data()); }
  bool IsFree(size_t i) const { return (free_bits[i / 64] >> (i % 64) & 1) != 0; }
};

struct KvMoveRecord {
  KvSequence* sequence = nullptr;  // nullptr: released or dropped meanwhile
  HostKvArena* arena = nullptr;
  KvDirection direction = KvDirection::kToHost;
  // Once the sequence is gone: what the copies still touch.
  std::vector<KvBlock*> blocks;
  std::vector<HostKvBlock*> host;
};

uint64_t KvChainHash(uint64_t predecessor, const int32_t* tokens);

}  // namespace tidepool::compute::internal
