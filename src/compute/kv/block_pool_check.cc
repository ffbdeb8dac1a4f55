// What must always hold, walked from the blocks.
#include <map>

#include "base/check.h"
#include "compute/kv/block_pool.h"
#include "compute/kv/block_pool_internal.h"

namespace tidepool::compute {
namespace {

struct KvHolders {
  int32_t references = 0, copies = 0;
};

}  // namespace

void BlockPool::CheckInvariants(std::span<const KvSequence* const> sequences) const {
  std::map<const Block*, KvHolders> holders;
  int64_t reserved = 0;
  int64_t in_workspaces = 0;
  size_t moving_sequences = 0;
  for (const KvSequence* sequence : sequences) {
    CHECK(sequence->place_ != KvPlace::kNone);
    CHECK(sequence->blocks_.size() == sequence->table_.size());
    if (sequence->place_ == KvPlace::kSpilled || sequence->place_ == KvPlace::kDropped) {
      CHECK(sequence->blocks_.empty() && sequence->reserved_ == 0 && sequence->workspace_ == nullptr);
      continue;
    }
    CHECK(sequence->content_ == content_);
    const bool spilling = sequence->place_ == KvPlace::kSpilling;
    const bool restoring = sequence->place_ == KvPlace::kRestoring;
    CHECK((sequence->move_ != 0) == (spilling || restoring));
    if (sequence->move_ != 0) {
      const auto move = moves_.find(sequence->move_);
      CHECK(move != moves_.end() && move->second->sequence == sequence);
      CHECK(sequence->host_.size() == sequence->blocks_.size());
      ++moving_sequences;
    }
    reserved += sequence->reserved_;
    if (sequence->workspace_ != nullptr) ++in_workspaces;
    for (size_t i = 0; i < sequence->blocks_.size(); ++i) {
      const Block* block = sequence->blocks_[i];
      const bool registered = i < static_cast<size_t>(sequence->registered_);
      CHECK(sequence->table_[i] == block->data);
      CHECK(block->registered == registered);
      CHECK(!block->registered || block->workspace == sequence->workspace_);
      ++(spilling || (restoring && !registered) ? holders[block].copies : holders[block].references);
    }
  }
  CHECK(reserved == reserved_ && free_ + cached_ >= reserved_);
  for (const auto& [id, record] : moves_) {
    CHECK(record->sequence != nullptr || record->blocks.size() == record->host.size());
    if (record->sequence != nullptr) --moving_sequences;
    for (const Block* block : record->blocks) ++holders[block].copies;
  }
  CHECK(moving_sequences == 0);

  int32_t total = 0, free = 0, used = 0, cached = 0, moving = 0, registered = 0;
  uint64_t bytes = 0;
  for (size_t s = 0; s < slabs_.size(); ++s) {
    const Slab& slab = *slabs_[s];
    CHECK(slab.index == s);
    const uint64_t used_bytes = slab.blocks.size() * options_.block_bytes;
    if (slab.region) {  // whole pages
      CHECK(slab.memory.bytes() == 0 && slab.region->bytes == slab.charge.bytes());
      CHECK(slab.charge.bytes() >= used_bytes && slab.charge.bytes() < used_bytes + KvReserve::kPageBytes);
    } else {
      CHECK(slab.charge.bytes() == used_bytes && slab.memory.bytes() >= used_bytes);
    }
    CHECK(slab.free == 0 || first_free_slab_ <= s);
    bytes += slab.charge.bytes();
    total += static_cast<int32_t>(slab.blocks.size());
    int32_t slab_free = 0, pinned = 0;
    for (size_t i = 0; i < slab.blocks.size(); ++i) {
      const Block& block = slab.blocks[i];
      const auto found = holders.find(&block);
      const KvHolders held = found == holders.end() ? KvHolders() : found->second;
      CHECK(block.slab == &slab && block.references == held.references && block.copies == held.copies);
      // Memory that several sequences hold is shared through the cache.
      CHECK(held.references + held.copies <= 1 || block.registered);
      CHECK(slab.IsFree(i) == (!block.pinned() && !block.registered));
      if (slab.IsFree(i)) ++slab_free;
      if (block.pinned()) ++pinned;
      if (block.copies > 0) ++moving;
      if (block.copies == 0 && block.references > 0) ++used;
      if (block.registered) ++registered;
      if (block.registered && !block.pinned()) ++cached;
    }
    CHECK(slab_free == slab.free && pinned == slab.pinned);
    free += slab_free;
  }
  CHECK(total == total_ && free == free_ && cached == cached_ && moving == moving_ && bytes == bytes_);
  CHECK(free + used + cached + moving == total);

  int32_t on_lru = 0;
  for (const Block* block = lru_newest_; block != nullptr; block = block->lru_older) {
    CHECK(!block->pinned() && block->registered && ++on_lru <= cached_);
  }
  CHECK(on_lru == cached_);
  int32_t in_buckets = 0;
  for (const Block* bucket : buckets_) {
    for (const Block* block = bucket; block != nullptr; block = block->bucket_next) ++in_buckets;
  }
  CHECK(in_buckets == registered && registered == registered_);
  int64_t workspace_holders = 0;
  for (const auto& [name, workspace] : workspaces_) workspace_holders += workspace->holders;
  CHECK(workspace_holders == in_workspaces + registered);
}

}  // namespace tidepool::compute
