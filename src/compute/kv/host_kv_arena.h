// Bounded host memory for the KV of sequences that are off their device: all models of a host share it.
//
// Slabs of blocks of one size each. A slab is bound to its block size while a block of it is in use and goes
// back to the system when it is empty; when there is no room for a new slab, blocks are moved together until
// a slab of another size becomes empty. So what a block size holds without using it is less than one slab,
// beside slabs that a copy keeps from being emptied.
//
// A block is free, used (one spilled sequence owns it) or moving (a copy reads or writes it; its owner may be
// gone): free + used + moving = total.
//
// Invariant: bytes of slabs <= limit, except after the limit was lowered: then nothing new is taken until
// what is there has drained below it.
//
// Threads: any (one mutex), the sequences themselves belong to one thread at a time. Outlives every pool and
// sequence that uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "chips/device.h"
#include "compute/memory/ledger.h"

namespace tidepool::compute {

class KvSequence;

namespace internal {
struct HostKvBlock;
struct HostKvSlab;
}  // namespace internal

struct HostKvArenaOptions {
  uint64_t limit_bytes = 0;         // 0: off
  uint64_t slab_bytes = 32u << 20;  // growth; at least one block, less where the limit leaves less
  // Charged too, by owner "kv_arena", where host memory has a ledger. Outlives the arena.
  Ledger* ledger = nullptr;
  // Where slabs come from; empty: anonymous pages.
  std::function<Result<chips::DeviceBuffer>(size_t bytes)> allocate = {};
};

struct HostKvArenaStats {
  uint64_t limit_bytes = 0;
  uint64_t bytes = 0;                                         // of slabs: what counts against the limit
  uint64_t used_bytes = 0, moving_bytes = 0, free_bytes = 0;  // of blocks; the rest of `bytes` is rounding
  uint64_t over_limit_bytes = 0;
  int32_t slabs = 0;
  int32_t block_sizes = 0;       // how many have a slab
  uint64_t refusals = 0;         // allocations without room
  uint64_t compacted_bytes = 0;  // moved together to empty slabs
};

class HostKvArena {
 public:
  explicit HostKvArena(HostKvArenaOptions options);
  ~HostKvArena();  // all blocks must be free

  // Lower than what is held is allowed: nothing is lost, spills are refused until the rest has drained.
  // Returns what is over now.
  uint64_t SetLimit(uint64_t bytes);
  uint64_t limit() const;
  // Moves blocks together and gives empty slabs back. Returns the bytes given back.
  uint64_t Trim();
  HostKvArenaStats stats() const;
  // True when `count` blocks could be had now. A hint: another thread may take them first.
  bool HasRoom(size_t block_bytes, int32_t count) const;

  // ---- for BlockPool ----
  using Block = internal::HostKvBlock;
  // All or none, neighbours side by side where possible; they are moving. Where another size's slab has to be
  // emptied first, this copies up to a slab's bytes (about 5 ms for 32 MiB). kUnavailable "kv_arena_full".
  Result<std::vector<Block*>> Allocate(size_t block_bytes, int32_t count);
  void StartMoving(std::span<Block* const> blocks);  // used -> moving
  void Settle(std::span<Block* const> blocks);       // moving -> used
  void Free(std::span<Block* const> blocks);         // used or moving -> free
  std::byte* data(const Block* block) const;         // stays only while the block is moving

  // Gives back what a spilled sequence holds, when its pool is gone (BlockPool::Release does the same).
  void Release(KvSequence& sequence);

  // Tests: walks everything and CHECKs the invariants. `sequences`: all that have blocks here. Blocks of
  // nobody must be moving.
  void CheckInvariants(std::span<const KvSequence* const> sequences) const;

 private:
  using Slab = internal::HostKvSlab;
  using Slabs = std::vector<std::unique_ptr<Slab>>;

  bool AddSlab(size_t block_bytes, int32_t blocks);
  bool EmptySlab(size_t block_bytes, Slabs& slabs);
  bool EmptyAnySlab(size_t except_block_bytes);
  void RemoveEmptySlabs(Slabs& slabs);
  uint64_t TrimLocked();
  uint64_t RoomLocked() const;

  const HostKvArenaOptions options_;
  mutable std::mutex mutex_;
  uint64_t limit_ = 0;
  uint64_t bytes_ = 0;
  uint64_t refusals_ = 0;
  uint64_t compacted_bytes_ = 0;
  std::map<size_t, Slabs> shapes_;  // by block bytes; none is empty
};

}  // namespace tidepool::compute
