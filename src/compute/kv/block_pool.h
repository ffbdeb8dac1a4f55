// Paged KV memory of one model: blocks of 16 tokens, in slabs taken from the ledger and the device.
//
// A block is in exactly one state: free (on its slab's free list), used (referenced by one or more sequences)
// or cached (complete, in the prefix cache, referenced by nobody, reclaimable). free + used + cached = total.
//
// Admission is a promise: Admit reserves every block a sequence may ever need, so Extend cannot fail. The
// promise is kept by  free + cached >= reserved  at all times.
//
// Prefix cache: a full block is found by a hash chained over its predecessors, seeded by the workspace, and
// is taken only if its workspace, its predecessor and its 16 token ids are equal: a collision costs a miss,
// never a wrong answer. Unreferenced cached blocks are evicted least recently used first; a block is always
// evicted before the block it continues (sequences release their deepest blocks first).
//
// Threads: one (the engine's). Admit and slab growth allocate; Extend, Commit and Release do not.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "chips/device.h"
#include "compute/memory/ledger.h"

namespace tidepool::compute {

struct BlockPoolOptions {
  std::string owner;               // whom the ledger charges: the model's name
  size_t block_bytes = 0;          // KvLayout::block_bytes()
  uint64_t slab_bytes = 8u << 20;  // growth; at least one block
  bool prefix_cache = true;
};

struct BlockPoolStats {
  int32_t total = 0, free = 0, used = 0, cached = 0;
  int32_t reserved = 0;  // promised to sequences, not yet taken
  int32_t slabs = 0;
  uint64_t bytes = 0;      // charged
  uint64_t evictions = 0;  // cached blocks reused for something else
};

namespace internal {
struct KvBlock;
struct KvSlab;
struct KvWorkspace;
}  // namespace internal

// What one sequence holds. Owned by the caller, filled and emptied by the pool it was admitted to.
class KvSequence {
 public:
  KvSequence() = default;
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;
  ~KvSequence();  // must have been released

  // One device pointer per block, in order; stable until the next Extend, Commit or Release.
  std::span<std::byte* const> table() const { return table_; }
  // Tokens of the prompt whose KV came from the prefix cache: a multiple of 16, less than the prompt.
  int32_t cached_tokens() const { return cached_tokens_; }
  int32_t reserved_blocks() const { return reserved_; }

 private:
  friend class BlockPool;
  std::vector<internal::KvBlock*> blocks_;
  std::vector<std::byte*> table_;
  internal::KvWorkspace* workspace_ = nullptr;  // nullptr: stays out of the prefix cache
  int32_t reserved_ = 0;
  int32_t cached_tokens_ = 0;
  int32_t registered_ = 0;     // leading blocks that are in the prefix cache
  uint64_t chain_hash_ = 0;    // of the last registered block, or the workspace's seed
  uint64_t chain_serial_ = 0;  // its serial number, or the workspace's
  bool admitted_ = false;
};

class BlockPool {
 public:
  BlockPool(chips::Device& device, Ledger& ledger, BlockPoolOptions options);
  ~BlockPool();  // all sequences must have been released

  struct AdmitRequest {
    std::span<const int32_t> prompt;  // at least one token
    int32_t max_tokens = 0;           // prompt and output: what is reserved
    std::string_view workspace;
    bool match_prefix = true;  // take what the prefix cache has
    bool share = true;         // put complete blocks into the prefix cache (never for encoders, whose KV
                               // depends on later tokens)
  };
  // Reserves. False: no room now, nothing changed. At least one token of the prompt is left to compute.
  bool Admit(const AdmitRequest& request, KvSequence& sequence);
  // Makes the table cover `tokens` tokens, within the reservation.
  void Extend(KvSequence& sequence, int32_t tokens);
  // Tells that the KV of `history` (all tokens of the sequence so far) has been computed: complete blocks
  // become sharable. A block that another sequence completed first is replaced by that one.
  void Commit(KvSequence& sequence, std::span<const int32_t> history);
  // Gives everything back. Complete blocks stay as prefix cache.
  void Release(KvSequence& sequence);

  // Gives whole slabs that nobody uses back to the ledger, those without cached blocks first, until `bytes`
  // are freed. Promises are kept. Returns the bytes freed.
  uint64_t Shrink(uint64_t bytes);
  // Bytes Shrink could free now.
  uint64_t shrinkable_bytes() const;

  static int32_t BlocksFor(int64_t tokens) {
    return static_cast<int32_t>((tokens + chips::kKvBlockTokens - 1) / chips::kKvBlockTokens);
  }
  BlockPoolStats stats() const;
  // Tests: walks everything and CHECKs the invariants above. `sequences`: all that are admitted.
  void CheckInvariants(std::span<const KvSequence* const> sequences) const;

 private:
  using Block = internal::KvBlock;
  using Slab = internal::KvSlab;
  using Workspace = internal::KvWorkspace;

  bool EnsureAvailable(int32_t blocks);
  bool Grow(int32_t blocks);
  void ReleaseSlab(size_t index);
  Block* TakeBlock();
  void FreeBlock(Block* block);
  void Reference(Block* block);
  void Unreference(Block* block);
  Block* Find(uint64_t hash, const KvSequence& chain, const int32_t* tokens) const;
  void Register(Block* block, uint64_t hash, const KvSequence& chain, const int32_t* tokens);
  void Unregister(Block* block);
  void MatchPrefix(const AdmitRequest& request, KvSequence& sequence);
  Workspace* AcquireWorkspace(std::string_view name);
  void DropWorkspace(Workspace* workspace);
  void LruPush(Block* block);
  void LruRemove(Block* block);
  void Rehash(size_t blocks);

  chips::Device& device_;
  Ledger& ledger_;
  const BlockPoolOptions options_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  size_t first_free_slab_ = 0;  // no slab before it has a free block
  int32_t total_ = 0, free_ = 0, cached_ = 0, reserved_ = 0;
  uint64_t bytes_ = 0;
  uint64_t evictions_ = 0;
  uint64_t next_serial_ = 1;
  std::vector<Block*> buckets_;  // prefix cache: chained hash table, a power of two
  Block* lru_newest_ = nullptr;
  Block* lru_oldest_ = nullptr;
  std::map<std::string, std::unique_ptr<Workspace>, std::less<>> workspaces_;
};

}  // namespace tidepool::compute
