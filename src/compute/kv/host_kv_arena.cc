#include "compute/kv/host_kv_arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "compute/kv/block_pool.h"

namespace tidepool::compute {
namespace internal {

// What a sequence holds. The memory behind it may change while it is not moving.
struct HostKvBlock {
  HostKvSlab* slab = nullptr;
  size_t slot = 0;
  bool moving = false;
};

struct HostKvSlab {
  Charge charge;  // declared first: given back after the memory
  chips::DeviceBuffer memory;
  size_t block_bytes = 0;
  std::vector<std::unique_ptr<HostKvBlock>> slots;  // nullptr: free
  size_t held = 0;                                  // used or moving
  size_t moving = 0;
  size_t first_free = 0;  // no slot before it is free

  size_t free() const { return slots.size() - held; }
  std::byte* At(size_t slot) const { return memory.data() + slot * block_bytes; }
};

}  // namespace internal

namespace {

Result<chips::DeviceBuffer> AllocateHostPages(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return Fail(ErrorKind::kUnavailable, "out_of_memory",
                fmt::format("the system refused {} bytes of memory for spilled KV", bytes));
  }
  madvise(data, bytes, MADV_HUGEPAGE);  // advice only
  return chips::DeviceBuffer(data, bytes, [](void* p, size_t n) { munmap(p, n); });
}

}  // namespace

HostKvArena::HostKvArena(HostKvArenaOptions options)
    : options_(std::move(options)), limit_(options_.limit_bytes) {
  CHECK(options_.slab_bytes > 0);
}

HostKvArena::~HostKvArena() { CHECK(shapes_.empty()); }

// ---- slabs -------------------------------------------------------------------------------------------

uint64_t HostKvArena::RoomLocked() const {
  const uint64_t room = limit_ > bytes_ ? limit_ - bytes_ : 0;
  return options_.ledger != nullptr ? std::min(room, options_.ledger->free()) : room;
}

bool HostKvArena::AddSlab(size_t block_bytes, int32_t blocks) {
  const uint64_t fit = RoomLocked() / block_bytes;
  const uint64_t usual = std::max<uint64_t>(1, options_.slab_bytes / block_bytes);
  const uint64_t count = std::min(fit, usual);
  // A slab for less than is needed and less than usual would be in the way of others for nothing.
  if (count == 0 || (count < usual && count < static_cast<uint64_t>(blocks))) return false;
  const uint64_t bytes = count * block_bytes;
  auto slab = std::make_unique<Slab>();
  if (options_.ledger != nullptr) {
    auto charge = options_.ledger->TryTake("kv_arena", ChargeKind::kKv, bytes);
    if (!charge) return false;
    slab->charge = std::move(*charge);
  }
  auto memory = options_.allocate ? options_.allocate(bytes) : AllocateHostPages(bytes);
  if (!memory) return false;
  slab->memory = std::move(*memory);
  slab->block_bytes = block_bytes;
  slab->slots.resize(count);
  shapes_[block_bytes].push_back(std::move(slab));
  bytes_ += bytes;
  return true;
}

void HostKvArena::RemoveEmptySlabs(Slabs& slabs) {
  std::erase_if(slabs, [&](const auto& slab) {
    if (slab->held > 0) return false;
    bytes_ -= slab->slots.size() * slab->block_bytes;
    return true;
  });
}

// Moves the blocks of the slab that holds least into the others, if they fit. No copy is under way in it.
bool HostKvArena::EmptySlab(size_t block_bytes, Slabs& slabs) {
  Slab* least = nullptr;
  size_t free = 0;
  for (const auto& slab : slabs) {
    free += slab->free();
    if (slab->moving == 0 && (least == nullptr || slab->held < least->held)) least = slab.get();
  }
  if (least == nullptr || free - least->free() < least->held) return false;
  auto to = slabs.begin();
  for (size_t from = 0; from < least->slots.size(); ++from) {
    if (least->slots[from] == nullptr) continue;
    while (to->get() == least || (*to)->free() == 0) ++to;
    Slab& target = **to;
    while (target.slots[target.first_free] != nullptr) ++target.first_free;
    const size_t slot = target.first_free;
    std::memcpy(target.At(slot), least->At(from), block_bytes);
    target.slots[slot] = std::move(least->slots[from]);
    target.slots[slot]->slab = &target;
    target.slots[slot]->slot = slot;
    ++target.held;
    --least->held;
    compacted_bytes_ += block_bytes;
  }
  RemoveEmptySlabs(slabs);
  return true;
}

bool HostKvArena::EmptyAnySlab(size_t except_block_bytes) {
  for (auto& [block_bytes, slabs] : shapes_) {
    if (block_bytes != except_block_bytes && EmptySlab(block_bytes, slabs)) return true;
  }
  return false;
}

uint64_t HostKvArena::TrimLocked() {
  const uint64_t before = bytes_;
  while (EmptyAnySlab(0)) {
  }
  return before - bytes_;
}

uint64_t HostKvArena::Trim() {
  std::lock_guard lock(mutex_);
  return TrimLocked();
}

uint64_t HostKvArena::SetLimit(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  limit_ = bytes;
  if (bytes_ > limit_) TrimLocked();
  return bytes_ > limit_ ? bytes_ - limit_ : 0;
}

uint64_t HostKvArena::limit() const {
  std::lock_guard lock(mutex_);
  return limit_;
}

// ---- blocks ------------------------------------------------------------------------------------------

namespace {

template <typename Slabs>
size_t FreeBlocksOf(const Slabs& slabs) {
  size_t free = 0;
  for (const auto& slab : slabs) free += slab->free();
  return free;
}

}  // namespace

bool HostKvArena::HasRoom(size_t block_bytes, int32_t count) const {
  std::lock_guard lock(mutex_);
  if (bytes_ > limit_ || limit_ == 0) return false;
  const auto shape = shapes_.find(block_bytes);
  const size_t free = shape == shapes_.end() ? 0 : FreeBlocksOf(shape->second);
  return free + RoomLocked() / block_bytes >= static_cast<uint64_t>(count);
}

Result<std::vector<HostKvArena::Block*>> HostKvArena::Allocate(size_t block_bytes, int32_t count) {
  CHECK(block_bytes > 0 && count >= 0);
  std::lock_guard lock(mutex_);
  std::vector<Block*> blocks;
  if (count == 0) return blocks;
  const auto wanted = static_cast<size_t>(count);
  size_t free = 0;
  bool room = limit_ > 0 && bytes_ <= limit_;
  while (room) {
    const auto shape = shapes_.find(block_bytes);
    free = shape == shapes_.end() ? 0 : FreeBlocksOf(shape->second);
    if (free >= wanted) break;
    room = AddSlab(block_bytes, static_cast<int32_t>(wanted - free)) || EmptyAnySlab(block_bytes);
  }
  if (!room) {
    ++refusals_;
    // What was added for this and is not needed goes back.
    if (const auto shape = shapes_.find(block_bytes); shape != shapes_.end()) {
      RemoveEmptySlabs(shape->second);
      if (shape->second.empty()) shapes_.erase(shape);
    }
    return Fail(ErrorKind::kUnavailable, "kv_arena_full",
                fmt::format("host memory for KV has no room for {} blocks of {} bytes: {} of {} bytes are "
                            "held; raise the limit or wait for sequences to come back",
                            count, block_bytes, bytes_, limit_));
  }
  // The fullest slabs first: the others become empty.
  Slabs& slabs = shapes_.at(block_bytes);
  std::sort(slabs.begin(), slabs.end(), [](const auto& a, const auto& b) {
    return a->held != b->held ? a->held > b->held : a->memory.data() < b->memory.data();
  });
  blocks.reserve(wanted);
  for (const auto& slab : slabs) {
    for (; slab->free() > 0 && blocks.size() < wanted; ++slab->first_free) {
      if (slab->slots[slab->first_free] != nullptr) continue;
      auto block = std::make_unique<Block>();
      block->slab = slab.get();
      block->slot = slab->first_free;
      block->moving = true;
      blocks.push_back(block.get());
      slab->slots[slab->first_free] = std::move(block);
      ++slab->held;
      ++slab->moving;
    }
  }
  return blocks;
}

void HostKvArena::StartMoving(std::span<Block* const> blocks) {
  std::lock_guard lock(mutex_);
  for (Block* block : blocks) {
    CHECK(!block->moving);
    block->moving = true;
    ++block->slab->moving;
  }
}

void HostKvArena::Settle(std::span<Block* const> blocks) {
  std::lock_guard lock(mutex_);
  for (Block* block : blocks) {
    CHECK(block->moving);
    block->moving = false;
    --block->slab->moving;
  }
}

void HostKvArena::Free(std::span<Block* const> blocks) {
  std::lock_guard lock(mutex_);
  bool emptied = false;
  for (Block* block : blocks) {
    Slab& slab = *block->slab;
    if (block->moving) --slab.moving;
    --slab.held;
    slab.first_free = std::min(slab.first_free, block->slot);
    slab.slots[block->slot].reset();
    emptied = emptied || slab.held == 0;
  }
  if (!emptied) return;
  for (auto& [block_bytes, slabs] : shapes_) RemoveEmptySlabs(slabs);
  std::erase_if(shapes_, [](const auto& shape) { return shape.second.empty(); });
}

std::byte* HostKvArena::data(const Block* block) const { return block->slab->At(block->slot); }

void HostKvArena::Release(KvSequence& sequence) {
  CHECK(sequence.place_ == KvPlace::kSpilled && sequence.arena_ == this);
  Free(sequence.host_);
  sequence.host_.clear();
  sequence.arena_ = nullptr;
  sequence.cached_tokens_ = 0;
  sequence.place_ = KvPlace::kNone;
}

// ---- accounting --------------------------------------------------------------------------------------

HostKvArenaStats HostKvArena::stats() const {
  std::lock_guard lock(mutex_);
  HostKvArenaStats stats{.limit_bytes = limit_,
                         .bytes = bytes_,
                         .over_limit_bytes = bytes_ > limit_ ? bytes_ - limit_ : 0,
                         .block_sizes = static_cast<int32_t>(shapes_.size()),
                         .refusals = refusals_,
                         .compacted_bytes = compacted_bytes_};
  for (const auto& [block_bytes, slabs] : shapes_) {
    stats.slabs += static_cast<int32_t>(slabs.size());
    for (const auto& slab : slabs) {
      stats.moving_bytes += slab->moving * block_bytes;
      stats.used_bytes += (slab->held - slab->moving) * block_bytes;
      stats.free_bytes += slab->free() * block_bytes;
    }
  }
  return stats;
}

void HostKvArena::CheckInvariants(std::span<const KvSequence* const> sequences) const {
  std::lock_guard lock(mutex_);
  std::map<const Block*, bool> owned;  // whether its owner thinks that it moves
  for (const KvSequence* sequence : sequences) {
    CHECK(sequence->arena_ == nullptr || sequence->arena_ == this);
    CHECK(sequence->host_.empty() || sequence->arena_ == this);
    for (size_t i = 0; i < sequence->host_.size(); ++i) {
      const bool matched = i < static_cast<size_t>(sequence->registered_);
      const bool moving =
          sequence->place_ == KvPlace::kSpilling || (sequence->place_ == KvPlace::kRestoring && !matched);
      CHECK(owned.emplace(sequence->host_[i], moving).second);  // one owner
      CHECK(sequence->host_[i]->slab->block_bytes == sequence->block_bytes_);
    }
  }
  uint64_t bytes = 0;
  size_t found = 0;
  for (const auto& [block_bytes, slabs] : shapes_) {
    CHECK(!slabs.empty());
    for (const auto& slab : slabs) {
      CHECK(slab->block_bytes == block_bytes && slab->held > 0);
      CHECK(slab->memory.bytes() >= slab->slots.size() * block_bytes);
      CHECK(options_.ledger == nullptr || slab->charge.bytes() == slab->slots.size() * block_bytes);
      bytes += slab->slots.size() * block_bytes;
      size_t held = 0, moving = 0;
      for (size_t i = 0; i < slab->slots.size(); ++i) {
        const Block* block = slab->slots[i].get();
        CHECK(block != nullptr || i >= slab->first_free);
        if (block == nullptr) continue;
        CHECK(block->slab == slab.get() && block->slot == i);
        ++held;
        if (block->moving) ++moving;
        const auto owner = owned.find(block);
        CHECK(owner != owned.end() ? owner->second == block->moving : block->moving);
        if (owner != owned.end()) ++found;
      }
      CHECK(held == slab->held && moving == slab->moving);
    }
  }
  CHECK(found == owned.size() && bytes == bytes_);
}

}  // namespace tidepool::compute
