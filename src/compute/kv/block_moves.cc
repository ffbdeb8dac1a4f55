// Sequences that leave the device and come back.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "compute/kv/block_pool.h"
#include "compute/kv/block_pool_internal.h"

namespace tidepool::compute {
namespace {

// Appends a copy, or lengthens the last one when both ends continue it.
void AddKvCopy(KvMove& move, const std::byte* source, std::byte* destination, size_t bytes) {
  move.bytes += bytes;
  if (!move.copies.empty()) {
    KvCopy& last = move.copies.back();
    if (last.source + last.bytes == source && last.destination + last.bytes == destination) {
      last.bytes += bytes;
      return;
    }
  }
  move.copies.push_back({source, destination, bytes});
}

}  // namespace

// ---- blocks that move --------------------------------------------------------------------------------

void BlockPool::StartMoving(Block* block) {
  CHECK(block->references > 0);
  --block->references;
  if (block->copies++ == 0) ++moving_;
}

void BlockPool::StopMoving(Block* block) {
  CHECK(block->copies > 0);
  if (--block->copies == 0) --moving_;
  ++block->references;
}

void BlockPool::FinishCopy(Block* block) {
  CHECK(block->copies > 0);
  if (--block->copies == 0) --moving_;
  Unpin(block);
}

uint64_t BlockPool::NewMove(KvSequence& sequence, HostKvArena& arena, KvDirection direction) {
  auto record = std::make_unique<MoveRecord>();
  record->sequence = &sequence;
  record->arena = &arena;
  record->direction = direction;
  const uint64_t id = next_move_++;
  moves_.emplace(id, std::move(record));
  sequence.move_ = id;
  return id;
}

// ---- spill -------------------------------------------------------------------------------------------

Result<KvMove> BlockPool::BeginSpill(KvSequence& sequence, HostKvArena& arena) {
  CHECK(sequence.place_ == KvPlace::kResident && sequence.content_ == content_);
  const size_t count = sequence.blocks_.size();
  TP_ASSIGN(sequence.host_, arena.Allocate(options_.block_bytes, static_cast<int32_t>(count)));
  sequence.arena_ = &arena;
  KvMove move;
  move.id = NewMove(sequence, arena, KvDirection::kToHost);
  move.direction = KvDirection::kToHost;
  for (size_t i = 0; i < count; ++i) {
    Block* block = sequence.blocks_[i];
    StartMoving(block);
    AddKvCopy(move, block->data, arena.data(sequence.host_[i]), options_.block_bytes);
  }
  sequence.place_ = KvPlace::kSpilling;
  counts_.copies += move.copies.size();
  return move;
}

// ---- restore -----------------------------------------------------------------------------------------

Result<KvMove> BlockPool::BeginRestore(KvSequence& sequence, const RestoreRequest& request) {
  CHECK(sequence.place_ == KvPlace::kSpilled);
  if (sequence.content_ != content_) {
    return Fail(ErrorKind::kInvalid, "kv_of_another_model",
                fmt::format("the KV was made by another model than {} or is laid out otherwise; compute it "
                            "again",
                            options_.owner));
  }
  const size_t count = sequence.host_.size();
  const auto blocks = std::max(static_cast<size_t>(BlocksFor(request.max_tokens)), count);
  sequence.blocks_.reserve(blocks);
  sequence.table_.reserve(blocks);
  JoinWorkspace(sequence);
  MatchPrefix(request.history, std::min(count, request.history.size() / chips::kKvBlockTokens), sequence);
  const size_t matched = sequence.blocks_.size();
  if (!EnsureAvailable(static_cast<int32_t>(blocks - matched))) {
    ReleaseDevice(sequence);
    return Fail(ErrorKind::kUnavailable, "no_kv_room",
                fmt::format("{} needs {} KV blocks to restore a sequence; wait for others to end",
                            options_.owner, blocks - matched));
  }
  TakeForRestore(sequence, count - matched);
  sequence.reserved_ = static_cast<int32_t>(blocks - count);
  reserved_ += sequence.reserved_;
  const std::span<HostKvArena::Block* const> read = std::span(sequence.host_).subspan(matched);
  sequence.arena_->StartMoving(read);
  KvMove move;
  move.id = NewMove(sequence, *sequence.arena_, KvDirection::kToDevice);
  move.direction = KvDirection::kToDevice;
  for (size_t i = matched; i < count; ++i) {
    AddKvCopy(move, sequence.arena_->data(sequence.host_[i]), sequence.table_[i], options_.block_bytes);
  }
  sequence.place_ = KvPlace::kRestoring;
  counts_.copies += move.copies.size();
  return move;
}

// In the order of their memory, so that neighbours are copied together.
void BlockPool::TakeForRestore(KvSequence& sequence, size_t count) {
  const size_t begin = sequence.blocks_.size();
  for (size_t i = 0; i < count; ++i) sequence.blocks_.push_back(TakeBlock(nullptr));
  std::sort(sequence.blocks_.begin() + static_cast<ptrdiff_t>(begin), sequence.blocks_.end(),
            [](const Block* a, const Block* b) { return a->data < b->data; });
  for (size_t i = begin; i < sequence.blocks_.size(); ++i) {
    StartMoving(sequence.blocks_[i]);
    sequence.table_.push_back(sequence.blocks_[i]->data);
  }
}

// ---- the end of a move -------------------------------------------------------------------------------

// While restoring, the first registered_ blocks were found in the cache; the rest is being copied.
bool BlockPool::EndMove(uint64_t move) {
  const auto entry = moves_.find(move);
  CHECK(entry != moves_.end());
  const std::unique_ptr<MoveRecord> record = std::move(entry->second);
  moves_.erase(entry);
  if (record->sequence == nullptr) {
    EndOrphan(*record);
    return false;
  }
  KvSequence& sequence = *record->sequence;
  sequence.move_ = 0;
  const size_t count = sequence.host_.size();
  if (record->direction == KvDirection::kToHost) {
    for (size_t i = count; i-- > 0;) FinishCopy(sequence.blocks_[i]);
    ForgetDevice(sequence);
    record->arena->Settle(sequence.host_);
    sequence.place_ = KvPlace::kSpilled;
    ++counts_.spills;
    counts_.spilled_blocks += count;
    return true;
  }
  const auto matched = static_cast<size_t>(sequence.registered_);
  for (size_t i = matched; i < count; ++i) StopMoving(sequence.blocks_[i]);
  record->arena->Free(sequence.host_);
  sequence.host_.clear();
  sequence.arena_ = nullptr;
  sequence.place_ = KvPlace::kResident;
  ++counts_.restores;
  counts_.restored_blocks += count;
  counts_.restored_from_cache_blocks += matched;
  return true;
}

bool BlockPool::AbortMove(uint64_t move) {
  const auto entry = moves_.find(move);
  CHECK(entry != moves_.end());
  const std::unique_ptr<MoveRecord> record = std::move(entry->second);
  moves_.erase(entry);
  ++counts_.aborted_moves;
  if (record->sequence == nullptr) {
    EndOrphan(*record);
    return false;
  }
  KvSequence& sequence = *record->sequence;
  sequence.move_ = 0;
  if (record->direction == KvDirection::kToHost) {
    for (Block* block : sequence.blocks_) StopMoving(block);
    record->arena->Free(sequence.host_);
    sequence.host_.clear();
    sequence.arena_ = nullptr;
    sequence.place_ = KvPlace::kResident;
    return true;
  }
  const auto matched = static_cast<size_t>(sequence.registered_);
  for (size_t i = sequence.blocks_.size(); i-- > matched;) FinishCopy(sequence.blocks_[i]);
  for (size_t i = matched; i-- > 0;) Unreference(sequence.blocks_[i]);
  ForgetDevice(sequence);
  record->arena->Settle(std::span(sequence.host_).subspan(matched));
  sequence.place_ = KvPlace::kSpilled;
  return true;
}

void BlockPool::EndOrphan(MoveRecord& record) {
  for (size_t i = record.blocks.size(); i-- > 0;) FinishCopy(record.blocks[i]);
  record.arena->Free(record.host);
}

// The sequence goes; what the copies touch waits for their end.
void BlockPool::OrphanMove(KvSequence& sequence) {
  const auto entry = moves_.find(sequence.move_);
  CHECK(entry != moves_.end() && entry->second->sequence == &sequence);
  MoveRecord& record = *entry->second;
  record.sequence = nullptr;
  sequence.move_ = 0;
  const auto matched =
      record.direction == KvDirection::kToHost ? size_t{0} : static_cast<size_t>(sequence.registered_);
  const auto at = static_cast<ptrdiff_t>(matched);
  record.blocks.assign(sequence.blocks_.begin() + at, sequence.blocks_.end());
  record.host.assign(sequence.host_.begin() + at, sequence.host_.end());
  for (size_t i = matched; i-- > 0;) Unreference(sequence.blocks_[i]);
  record.arena->Free(std::span(sequence.host_).first(matched));
  ForgetDevice(sequence);
}

// ---- the end of a sequence ---------------------------------------------------------------------------

void BlockPool::ReleaseAnywhere(KvSequence& sequence) {
  switch (sequence.place_) {
    case KvPlace::kResident: ReleaseDevice(sequence); break;
    case KvPlace::kSpilling:
    case KvPlace::kRestoring: OrphanMove(sequence); break;
    case KvPlace::kSpilled: sequence.arena_->Free(sequence.host_); break;
    case KvPlace::kDropped:
    case KvPlace::kNone: break;
  }
  sequence.host_.clear();
  sequence.arena_ = nullptr;
  sequence.cached_tokens_ = 0;
}

void BlockPool::Release(KvSequence& sequence) {
  ReleaseAnywhere(sequence);
  sequence.place_ = KvPlace::kNone;
}

void BlockPool::Drop(KvSequence& sequence) {
  CHECK(sequence.place_ != KvPlace::kNone);
  if (sequence.place_ == KvPlace::kDropped) return;
  ++counts_.drops;
  counts_.dropped_blocks += std::max(sequence.blocks_.size(), sequence.host_.size());
  ReleaseAnywhere(sequence);
  sequence.place_ = KvPlace::kDropped;
}

bool BlockPool::Readmit(KvSequence& sequence, std::span<const int32_t> tokens, int32_t max_tokens,
                        bool match_prefix) {
  CHECK(sequence.place_ == KvPlace::kDropped && sequence.content_ == content_);
  if (!Place(tokens, max_tokens, match_prefix, sequence)) return false;
  ++counts_.readmits;
  counts_.recomputed_tokens += tokens.size() - static_cast<size_t>(sequence.cached_tokens_);
  return true;
}

}  // namespace tidepool::compute
