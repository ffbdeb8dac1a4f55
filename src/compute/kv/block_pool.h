// Paged KV memory of one model on one device: blocks of 16 tokens, in slabs taken from the ledger.
//
// A block is in exactly one state: free, moving (a copy reads or writes it, whoever holds it), used (held by
// one or more sequences) or cached (complete, in the prefix cache, held by nobody, reclaimable).
// free + used + cached + moving = total.
//
// A reservation is a promise: Admit, Reserve, BeginRestore and Readmit reserve blocks on the device, so
// Extend cannot fail within them. The promise is kept by  free + cached >= reserved  at all times.
//
// Prefix cache: a full block is found by a hash chained over its predecessors, seeded by the workspace, and
// is taken only if its workspace, its predecessor and its 16 token ids are equal: a collision costs a miss,
// never a wrong answer. Unreferenced cached blocks are evicted least recently used first; a block is always
// evicted before the block it continues (sequences release their deepest blocks first).
//
// Moves: a sequence leaves the device by BeginSpill, copies, EndMove, and comes back (to this pool or another
// of the same content_key) by BeginRestore, copies, EndMove. The pool only says what to copy; the caller does
// it (KvMover) and says when it is over. A sequence may be released at any moment: what a copy still touches
// stays moving until EndMove or AbortMove. Drop forgets the KV altogether.
//
//   none --Admit--> resident --BeginSpill--> spilling --EndMove--> spilled --BeginRestore--> restoring
//   resident, spilled --Drop--> dropped --Readmit--> resident;    restoring --EndMove--> resident
//
// Threads: one (the engine's). Whatever takes slabs or moves allocates; Extend, Commit and Release do not.
#pragma once

#include <algorithm>
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
#include "compute/kv/host_kv_arena.h"
#include "compute/kv/kv_copy.h"
#include "compute/kv/kv_reserve.h"
#include "compute/memory/ledger.h"

namespace tidepool::compute {

struct BlockPoolOptions {
  std::string owner;               // whom the ledger charges: the model's name
  size_t block_bytes = 0;          // KvLayout::block_bytes()
  uint64_t slab_bytes = 8u << 20;  // growth; at least one block
  bool prefix_cache = true;
  // Where memory for slabs is ready, if it is; outlives the pool. Else slabs come from the device alone.
  KvReserve* reserve = nullptr;
  // What the bytes of a block mean (KvContentKey). Pools with the same key take each other's sequences and
  // files. Empty: the owner's name.
  std::string content_key = {};
};

struct BlockPoolStats {
  int32_t total = 0, free = 0, used = 0, cached = 0, moving = 0;
  int32_t reserved = 0;  // promised to sequences, not yet taken
  int32_t slabs = 0;
  uint64_t bytes = 0;      // charged
  uint64_t evictions = 0;  // cached blocks reused for something else
  uint64_t spills = 0, spilled_blocks = 0;
  uint64_t restores = 0, restored_blocks = 0;
  uint64_t restored_from_cache_blocks = 0;  // part of restored_blocks: needed no copy
  uint64_t copies = 0;                      // of all moves; fewer than blocks where neighbours were joined
  uint64_t aborted_moves = 0;
  uint64_t drops = 0, dropped_blocks = 0;
  uint64_t readmits = 0, recomputed_tokens = 0;  // tokens of dropped sequences that the cache did not have
};

namespace internal {
struct KvBlock;
struct KvSlab;
struct KvWorkspace;
struct KvMoveRecord;
}  // namespace internal

enum class KvPlace : uint8_t { kNone, kResident, kSpilling, kSpilled, kRestoring, kDropped };
std::string_view KvPlaceName(KvPlace place);

// What one sequence holds. Owned by the caller, filled and emptied by pools; does not move in memory.
class KvSequence {
 public:
  KvSequence() = default;
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;
  ~KvSequence();  // must have been released, or hold nothing (dropped)

  KvPlace place() const { return place_; }
  // One device pointer per block, in order; stable until the next call with this sequence. Empty when spilled
  // or dropped; may be computed with only while resident.
  std::span<std::byte* const> table() const { return table_; }
  // Tokens whose KV came from the prefix cache at Admit or Readmit: a multiple of 16, less than the prompt.
  int32_t cached_tokens() const { return cached_tokens_; }
  // Promised on the device and not yet taken.
  int32_t reserved_blocks() const { return reserved_; }
  int32_t host_blocks() const { return static_cast<int32_t>(host_.size()); }
  // The move that is going on; 0: none.
  uint64_t move() const { return move_; }

 private:
  friend class BlockPool;
  friend class HostKvArena;
  std::vector<internal::KvBlock*> blocks_;
  std::vector<std::byte*> table_;
  internal::KvWorkspace* workspace_ = nullptr;  // nullptr: off the device, or stays out of the prefix cache
  int32_t reserved_ = 0;
  int32_t cached_tokens_ = 0;
  int32_t registered_ = 0;     // leading blocks that are in the prefix cache
  uint64_t chain_hash_ = 0;    // of the last registered block, or the workspace's seed
  uint64_t chain_serial_ = 0;  // its serial number, or the workspace's
  KvPlace place_ = KvPlace::kNone;
  uint64_t move_ = 0;
  // Off the device the sequence belongs to no pool.
  HostKvArena* arena_ = nullptr;
  std::vector<internal::HostKvBlock*> host_;
  uint64_t content_ = 0;  // of the pool it was in
  size_t block_bytes_ = 0;
  std::string workspace_name_;
  bool shares_ = false;
};

class BlockPool {
 public:
  BlockPool(chips::Device& device, Ledger& ledger, BlockPoolOptions options);
  ~BlockPool();  // all sequences must have been released or spilled, all moves ended

  struct AdmitRequest {
    std::span<const int32_t> prompt;  // at least one token
    int32_t max_tokens = 0;           // what is reserved: at least the prompt
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
  // Raises the reservation so that `tokens` in all can be had by Extend. False: no room now, nothing changed.
  bool Reserve(KvSequence& sequence, int32_t tokens);
  // Gives everything back, in any place, also what another pool of this content spilled; what a move touches
  // follows at its end. Complete blocks stay as prefix cache. A sequence that is moving is released by the
  // pool that began the move.
  void Release(KvSequence& sequence);

  // resident -> spilling. kUnavailable "kv_arena_full": the arena is off, full or draining; nothing changed.
  Result<KvMove> BeginSpill(KvSequence& sequence, HostKvArena& arena);

  struct RestoreRequest {
    std::span<const int32_t> history;  // tokens whose KV is held: leading blocks may be in the prefix cache
    int32_t max_tokens = 0;            // what is reserved, at least what is held
  };
  // spilled -> restoring. kUnavailable "no_kv_room": nothing changed. kInvalid "kv_of_another_model".
  Result<KvMove> BeginRestore(KvSequence& sequence, const RestoreRequest& request);
  // All copies of the move are done: spilling -> spilled, restoring -> resident. False: the sequence was
  // released or dropped meanwhile, and its blocks came back now.
  bool EndMove(uint64_t move);
  // No copy of the move is running any more, and not all were made: spilling -> resident, restoring ->
  // spilled. Nothing is lost. False as above.
  bool AbortMove(uint64_t move);
  int32_t moves() const { return static_cast<int32_t>(moves_.size()); }

  // Last resort, in any place but none: forgets the KV, on the device and on the host, and the reservation.
  void Drop(KvSequence& sequence);
  // dropped -> resident, with what the prefix cache has of `tokens` (all so far; at least the last one is
  // computed again). False: no room now, nothing changed.
  bool Readmit(KvSequence& sequence, std::span<const int32_t> tokens, int32_t max_tokens,
               bool match_prefix = true);

  // Gives whole slabs that nobody uses back to the ledger, those without cached blocks first, until `bytes`
  // are freed. Promises are kept. Returns the bytes freed.
  uint64_t Shrink(uint64_t bytes);
  // Bytes Shrink could free now.
  uint64_t shrinkable_bytes() const;

  static int32_t BlocksFor(int64_t tokens) {
    return static_cast<int32_t>((tokens + chips::kKvBlockTokens - 1) / chips::kKvBlockTokens);
  }
  BlockPoolStats stats() const;
  const BlockPoolOptions& options() const { return options_; }
  const std::string& content_key() const;
  chips::Device& device() const { return device_; }
  int32_t registered_blocks() const { return registered_; }  // in the prefix cache, held or not

  // The cached blocks for a file, a block after the one it continues, else most recently used first.
  struct CachedBlock {
    std::string_view workspace;
    int32_t predecessor = -1;         // index in this list; -1: the first of its workspace
    std::span<const int32_t> tokens;  // 16
    const std::byte* data = nullptr;  // device memory
  };
  // At most `max_blocks`. Views: until the next call with this pool.
  std::vector<CachedBlock> CachedBlocks(int32_t max_blocks) const;
  // Puts blocks into the cache: all that were added, or none.
  class CacheLoader {
   public:
    explicit CacheLoader(BlockPool& pool) : pool_(pool) {}
    CacheLoader(const CacheLoader&) = delete;
    CacheLoader& operator=(const CacheLoader&) = delete;
    ~CacheLoader();  // forgets what was not kept
    enum class Added : uint8_t { kFill, kHeld, kNoRoom };
    // In an order in which predecessors come first; `predecessor` counts calls of Add. kFill: the caller
    // writes the block to `data` (device memory). kHeld: the pool has it already. kNoRoom: neither the ledger
    // nor the pool has a free block, or the predecessor had no room.
    Added Add(std::string_view workspace, int32_t predecessor, std::span<const int32_t> tokens,
              std::byte** data);
    // The first added becomes the most recently used.
    void Keep();

   private:
    BlockPool& pool_;
    std::vector<internal::KvBlock*> blocks_;  // one a call; nullptr: no room
    std::vector<bool> added_;
    std::vector<uint64_t> hashes_;
  };

  // Tests: walks everything and CHECKs the invariants above. `sequences`: all that hold blocks here.
  void CheckInvariants(std::span<const KvSequence* const> sequences) const;

 private:
  using Block = internal::KvBlock;
  using Slab = internal::KvSlab;
  using Workspace = internal::KvWorkspace;
  using MoveRecord = internal::KvMoveRecord;

  bool EnsureAvailable(int32_t blocks);
  bool HasUnpromised();
  int32_t UsualSlabBlocks() const {
    return static_cast<int32_t>(std::max<uint64_t>(1, options_.slab_bytes / options_.block_bytes));
  }
  bool Grow(int32_t blocks);
  int32_t GrowFromReserve(int32_t blocks);
  bool GrowFresh(int32_t blocks);
  void AddSlab(std::unique_ptr<Slab> slab, std::byte* data, int32_t blocks);
  void ReturnMemory(Slab& slab);
  void ReleaseSlab(size_t index);
  // Beside `after` where that is free; `after` may be nullptr.
  Block* TakeBlock(const Block* after);
  void FreeBlock(Block* block);
  void Evict(Block* block);
  void Reference(Block* block);
  void Unreference(Block* block);
  Block* Find(uint64_t hash, const Workspace* workspace, uint64_t predecessor, const int32_t* tokens) const;
  void Register(Block* block, uint64_t hash, Workspace* workspace, uint64_t predecessor,
                const int32_t* tokens);
  void Unregister(Block* block);
  // References the leading blocks of `tokens` that are cached, at most `most`.
  void MatchPrefix(std::span<const int32_t> tokens, size_t most, KvSequence& sequence);
  void JoinWorkspace(KvSequence& sequence);
  bool Place(std::span<const int32_t> tokens, int32_t max_tokens, bool match, KvSequence& sequence);
  // Copies keep a block as references do; a block that has any is moving.
  void StartMoving(Block* block);  // a reference becomes a copy
  void StopMoving(Block* block);   // and back
  void FinishCopy(Block* block);   // nobody's any more
  void Unpin(Block* block);
  uint64_t NewMove(KvSequence& sequence, HostKvArena& arena, KvDirection direction);
  void TakeForRestore(KvSequence& sequence, size_t count);
  void ReleaseDevice(KvSequence& sequence);
  void ForgetDevice(KvSequence& sequence);
  void ReleaseAnywhere(KvSequence& sequence);
  void OrphanMove(KvSequence& sequence);
  void EndOrphan(MoveRecord& record);
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
  int32_t total_ = 0, free_ = 0, cached_ = 0, moving_ = 0, reserved_ = 0, registered_ = 0;
  uint64_t bytes_ = 0;
  uint64_t content_ = 0;
  BlockPoolStats counts_;  // only what counts up
  uint64_t next_serial_ = 1;
  uint64_t next_move_ = 1;
  std::map<uint64_t, std::unique_ptr<MoveRecord>> moves_;
  std::vector<Block*> buckets_;  // prefix cache: chained hash table, a power of two
  Block* lru_newest_ = nullptr;
  Block* lru_oldest_ = nullptr;
  std::map<std::string, std::unique_ptr<Workspace>, std::less<>> workspaces_;
};

}  // namespace tidepool::compute
