// Sequences that leave the device and come back: what is promised, what waits for a copy, what is kept.
#include <gtest/gtest.h>

#include <cstring>
#include <future>
#include <memory>
#include <numeric>
#include <vector>

#include "chips/device.h"
#include "compute/kv/block_pool.h"
#include "compute/kv/kv_mover.h"

namespace tidepool::compute {
namespace {

constexpr size_t kBlockBytes = 256;

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

void CarryOut(const KvMove& move) {
  for (const KvCopy& copy : move.copies) std::memcpy(copy.destination, copy.source, copy.bytes);
}

class BlockMovesTest : public ::testing::Test {
 protected:
  // `blocks`: what the device's ledger has room for; `host_blocks`: what the arena has.
  void Make(int32_t blocks, int32_t host_blocks, int32_t host_slab_blocks = 4) {
    pool_.reset();
    arena_ = std::make_unique<HostKvArena>(
        HostKvArenaOptions{.limit_bytes = static_cast<uint64_t>(host_blocks) * kBlockBytes,
                           .slab_bytes = static_cast<uint64_t>(host_slab_blocks) * kBlockBytes,
                           .ledger = nullptr,
                           .allocate = {}});
    ledger_ = std::make_unique<Ledger>(static_cast<uint64_t>(blocks) * kBlockBytes);
    pool_ = MakePool(*ledger_, "m");
  }
  std::unique_ptr<BlockPool> MakePool(Ledger& ledger, const std::string& content) {
    return std::make_unique<BlockPool>(*device_, ledger,
                                       BlockPoolOptions{.owner = content,
                                                        .block_bytes = kBlockBytes,
                                                        .slab_bytes = 4 * kBlockBytes,
                                                        .content_key = content});
  }
  // A sequence whose `tokens` are computed, with `max_tokens` reserved.
  void Start(KvSequence& sequence, const std::vector<int32_t>& tokens, int32_t max_tokens,
             bool share = true) {
    ASSERT_TRUE(pool_->Admit({.prompt = tokens, .max_tokens = max_tokens, .workspace = "w", .share = share},
                             sequence));
    pool_->Extend(sequence, static_cast<int32_t>(tokens.size()));
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::memcpy(sequence.table()[i / 16] + (i % 16) * 16, &tokens[i], sizeof(int32_t));
    }
    pool_->Commit(sequence, tokens);
  }
  static bool Holds(const KvSequence& sequence, const std::vector<int32_t>& tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (std::memcmp(sequence.table()[i / 16] + (i % 16) * 16, &tokens[i], sizeof(int32_t)) != 0)
        return false;
    }
    return true;
  }
  void Check(std::vector<const KvSequence*> sequences) {
    pool_->CheckInvariants(sequences);
    arena_->CheckInvariants(sequences);
  }
  void SpillNow(KvSequence& sequence) {
    const auto move = pool_->BeginSpill(sequence, *arena_);
    ASSERT_TRUE(move);
    CarryOut(*move);
    ASSERT_TRUE(pool_->EndMove(move->id));
  }

  std::unique_ptr<chips::SimulatedDevice> device_ = chips::MakeSimulatedDevice({});
  std::unique_ptr<HostKvArena> arena_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<BlockPool> pool_;
};

TEST_F(BlockMovesTest, ReserveRaisesThePromiseOrChangesNothing) {
  Make(8, 0);
  KvSequence a, b;
  const auto tokens = Tokens(20);
  ASSERT_TRUE(pool_->Admit({.prompt = tokens, .max_tokens = 20, .workspace = "w"}, a));
  ASSERT_TRUE(pool_->Admit({.prompt = tokens, .max_tokens = 20, .workspace = "w"}, b));
  EXPECT_TRUE(pool_->Reserve(a, 16)) << "less than is reserved";
  EXPECT_EQ(pool_->stats().reserved, 4);
  EXPECT_TRUE(pool_->Reserve(a, 81));
  EXPECT_EQ(a.reserved_blocks(), 6);
  EXPECT_FALSE(pool_->Reserve(a, 97)) << "7 for this one, 2 for the other, 8 in all";
  EXPECT_EQ(a.reserved_blocks(), 6);
  pool_->Extend(a, 96);
  EXPECT_EQ(a.table().size(), 6u);
  Check({&a, &b});
  pool_->Release(b);
  EXPECT_TRUE(pool_->Reserve(a, 128));
  pool_->Release(a);
}

TEST_F(BlockMovesTest, SpillGivesTheDeviceBackAtTheEndOfTheCopyAndRestoreBringsItBack) {
  Make(8, 8);
  KvSequence a;
  const auto tokens = Tokens(50);
  Start(a, tokens, 100, false);
  const auto out = pool_->BeginSpill(a, *arena_);
  ASSERT_TRUE(out);
  EXPECT_EQ(out->bytes, 4 * kBlockBytes);
  EXPECT_EQ(out->copies.size(), 1u) << "neighbours on both sides";
  EXPECT_EQ(a.place(), KvPlace::kSpilling);
  EXPECT_EQ(pool_->stats().moving, 4);
  EXPECT_EQ(pool_->stats().used, 0);
  EXPECT_EQ(pool_->stats().reserved, 3) << "given back at the end: the spill may be aborted";
  EXPECT_EQ(arena_->stats().moving_bytes, 4 * kBlockBytes);
  Check({&a});
  CarryOut(*out);
  EXPECT_TRUE(pool_->EndMove(out->id));
  EXPECT_EQ(a.place(), KvPlace::kSpilled);
  EXPECT_EQ(pool_->stats().moving + pool_->stats().used + pool_->stats().reserved, 0);
  EXPECT_EQ(arena_->stats().used_bytes, 4 * kBlockBytes);
  EXPECT_TRUE(a.table().empty());
  Check({&a});

  KvSequence other;  // writes over what was there
  Start(other, Tokens(64, 500), 64, false);
  const auto in = pool_->BeginRestore(a, {.history = tokens, .max_tokens = 60});
  ASSERT_TRUE(in);
  EXPECT_EQ(a.place(), KvPlace::kRestoring);
  Check({&a, &other});
  CarryOut(*in);
  EXPECT_TRUE(pool_->EndMove(in->id));
  EXPECT_EQ(a.place(), KvPlace::kResident);
  EXPECT_TRUE(Holds(a, tokens));
  EXPECT_TRUE(Holds(other, Tokens(64, 500)));
  EXPECT_EQ(a.reserved_blocks(), 0) << "60 tokens are 4 blocks, which it has";
  EXPECT_EQ(arena_->stats().bytes, 0u) << "empty slabs go back";
  Check({&a, &other});
  pool_->Release(a);
  pool_->Release(other);
}

TEST_F(BlockMovesTest, WhatIsStillInThePrefixCacheIsNotCopied) {
  Make(16, 8);
  KvSequence a;
  const auto tokens = Tokens(50);
  Start(a, tokens, 100);
  SpillNow(a);
  EXPECT_EQ(pool_->stats().cached, 3) << "complete blocks stay as cache";
  const auto in = pool_->BeginRestore(a, {.history = tokens, .max_tokens = 100});
  ASSERT_TRUE(in);
  EXPECT_EQ(in->bytes, kBlockBytes);
  Check({&a});
  CarryOut(*in);
  EXPECT_TRUE(pool_->EndMove(in->id));
  EXPECT_TRUE(Holds(a, tokens));
  EXPECT_EQ(pool_->stats().restored_blocks, 4u);
  EXPECT_EQ(pool_->stats().restored_from_cache_blocks, 3u);
  pool_->Release(a);
}

TEST_F(BlockMovesTest, RestoredBlocksAreSharedAgainAfterTheNextCommit) {
  Make(16, 8);
  KvSequence a, b;
  auto tokens = Tokens(48);
  Start(a, tokens, 64);
  SpillNow(a);
  EXPECT_EQ(pool_->Shrink(UINT64_MAX), 4 * kBlockBytes) << "the cache is gone";
  const auto in = pool_->BeginRestore(a, {.history = tokens, .max_tokens = 64});
  ASSERT_TRUE(in);
  EXPECT_EQ(in->bytes, 3 * kBlockBytes);
  CarryOut(*in);
  ASSERT_TRUE(pool_->EndMove(in->id));
  pool_->Commit(a, tokens);
  tokens.push_back(7);
  ASSERT_TRUE(pool_->Admit({.prompt = tokens, .max_tokens = 49, .workspace = "w"}, b));
  EXPECT_EQ(b.cached_tokens(), 48);
  Check({&a, &b});
  pool_->Release(a);
  pool_->Release(b);
}

TEST_F(BlockMovesTest, AbortedMovesChangeNothing) {
  Make(8, 8);
  KvSequence a;
  const auto tokens = Tokens(50);
  Start(a, tokens, 100);
  const auto out = pool_->BeginSpill(a, *arena_);
  ASSERT_TRUE(out);
  EXPECT_TRUE(pool_->AbortMove(out->id));
  EXPECT_EQ(a.place(), KvPlace::kResident);
  EXPECT_TRUE(Holds(a, tokens));
  EXPECT_EQ(a.reserved_blocks(), 3);
  EXPECT_EQ(arena_->stats().bytes, 0u);
  Check({&a});

  SpillNow(a);
  pool_->Shrink(UINT64_MAX);
  const auto in = pool_->BeginRestore(a, {.history = tokens, .max_tokens = 100});
  ASSERT_TRUE(in);
  EXPECT_TRUE(pool_->AbortMove(in->id));
  EXPECT_EQ(a.place(), KvPlace::kSpilled);
  EXPECT_EQ(pool_->stats().reserved + pool_->stats().used + pool_->stats().moving, 0);
  Check({&a});
  const auto again = pool_->BeginRestore(a, {.history = tokens, .max_tokens = 100});
  ASSERT_TRUE(again);
  CarryOut(*again);
  ASSERT_TRUE(pool_->EndMove(again->id));
  EXPECT_TRUE(Holds(a, tokens));
  EXPECT_EQ(pool_->stats().aborted_moves, 2u);
  pool_->Release(a);
}

TEST_F(BlockMovesTest, ACancelledSequenceLeavesWhatACopyTouchesUntilItsEnd) {
  for (const bool to_host : {true, false}) {
    for (const bool aborted : {true, false}) {
      Make(4, 4);
      KvSequence a, b;
      Start(a, Tokens(64), 64, false);
      if (!to_host) SpillNow(a);
      auto move = to_host ? pool_->BeginSpill(a, *arena_)
                          : pool_->BeginRestore(a, {.history = Tokens(64), .max_tokens = 64});
      ASSERT_TRUE(move);
      pool_->Release(a);
      EXPECT_EQ(a.place(), KvPlace::kNone);
      EXPECT_EQ(pool_->stats().moving, 4);
      EXPECT_EQ(arena_->stats().moving_bytes, 4 * kBlockBytes);
      EXPECT_FALSE(pool_->Admit({.prompt = Tokens(1), .max_tokens = 1, .workspace = "w"}, b));
      EXPECT_FALSE(arena_->HasRoom(kBlockBytes, 1));
      EXPECT_EQ(pool_->Shrink(UINT64_MAX), 0u);
      Check({});
      CarryOut(*move);
      EXPECT_FALSE(aborted ? pool_->AbortMove(move->id) : pool_->EndMove(move->id));
      EXPECT_EQ(pool_->stats().free, 4);
      EXPECT_EQ(arena_->stats().bytes, 0u);
      Check({});
    }
  }
}

TEST_F(BlockMovesTest, ASharedBlockThatMovesStaysWithTheOthers) {
  Make(8, 8);
  KvSequence a, b;
  const auto tokens = Tokens(33);
  Start(a, tokens, 33);
  ASSERT_TRUE(pool_->Admit({.prompt = tokens, .max_tokens = 33, .workspace = "w"}, b));
  EXPECT_EQ(b.cached_tokens(), 32);
  const auto out_a = pool_->BeginSpill(a, *arena_);
  const auto out_b = pool_->BeginSpill(b, *arena_);
  ASSERT_TRUE(out_a && out_b);
  EXPECT_EQ(pool_->stats().moving, 3) << "two shared, one of the first";
  KvSequence c;  // may read what moves out
  ASSERT_TRUE(pool_->Admit({.prompt = tokens, .max_tokens = 33, .workspace = "w"}, c));
  EXPECT_EQ(c.cached_tokens(), 32);
  Check({&a, &b, &c});
  CarryOut(*out_b);
  CarryOut(*out_a);
  EXPECT_TRUE(pool_->EndMove(out_a->id));
  EXPECT_EQ(pool_->stats().moving, 2);
  EXPECT_TRUE(pool_->EndMove(out_b->id));
  EXPECT_EQ(pool_->stats().used, 2);
  EXPECT_TRUE(Holds(c, Tokens(32)));
  Check({&a, &b, &c});
  pool_->Release(a);
  pool_->Release(b);
  pool_->Release(c);
}

TEST_F(BlockMovesTest, AnotherDeviceOfTheSameModelTakesASequenceOver) {
  Make(8, 8);
  Ledger second_ledger(8 * kBlockBytes);
  auto second = MakePool(second_ledger, "m");
  auto stranger = MakePool(second_ledger, "n");
  KvSequence a;
  const auto tokens = Tokens(50);
  Start(a, tokens, 100);
  SpillNow(a);
  pool_.reset();  // a spilled sequence belongs to no pool
  EXPECT_EQ(ledger_->used(), 0u);

  const auto refused = stranger->BeginRestore(a, {.history = tokens, .max_tokens = 100});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "kv_of_another_model");
  const auto in = second->BeginRestore(a, {.history = tokens, .max_tokens = 100});
  ASSERT_TRUE(in);
  CarryOut(*in);
  EXPECT_TRUE(second->EndMove(in->id));
  EXPECT_TRUE(Holds(a, tokens));
  second->Commit(a, tokens);
  EXPECT_EQ(second->registered_blocks(), 3) << "in the prefix cache of its new pool";
  second->Release(a);
}

TEST_F(BlockMovesTest, NoRoomChangesNothing) {
  Make(4, 2);
  KvSequence a, b;
  Start(a, Tokens(48), 48, false);
  const auto full = pool_->BeginSpill(a, *arena_);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(full.error().code, "kv_arena_full");
  EXPECT_EQ(a.place(), KvPlace::kResident);
  EXPECT_EQ(arena_->stats().bytes, 0u) << "nothing is kept of an attempt";
  arena_->SetLimit(4 * kBlockBytes);
  SpillNow(a);
  Start(b, Tokens(32, 900), 32, false);
  const auto in = pool_->BeginRestore(a, {.history = Tokens(48), .max_tokens = 48});
  ASSERT_FALSE(in);
  EXPECT_EQ(in.error().code, "no_kv_room");
  EXPECT_EQ(a.place(), KvPlace::kSpilled);
  Check({&a, &b});
  arena_->Release(a);  // cancelled without a pool
  EXPECT_EQ(a.place(), KvPlace::kNone);
  EXPECT_EQ(arena_->stats().bytes, 0u);
  pool_->Release(b);
}

TEST_F(BlockMovesTest, AnArenaThatIsOffTakesNothing) {
  Make(4, 0);
  KvSequence a;
  Start(a, Tokens(20), 20);
  EXPECT_FALSE(pool_->BeginSpill(a, *arena_));
  pool_->Release(a);
}

TEST_F(BlockMovesTest, DropKeepsThePlaceAndReadmitTakesWhatTheCacheHas) {
  Make(8, 8);
  KvSequence a;
  auto tokens = Tokens(50);
  Start(a, tokens, 100);
  pool_->Drop(a);
  EXPECT_EQ(a.place(), KvPlace::kDropped);
  EXPECT_EQ(pool_->stats().reserved + pool_->stats().used, 0);
  tokens.push_back(3);  // the token that was sampled last
  ASSERT_TRUE(pool_->Readmit(a, tokens, 60));
  EXPECT_EQ(a.cached_tokens(), 48);
  EXPECT_EQ(pool_->stats().recomputed_tokens, 3u);
  EXPECT_EQ(pool_->stats().drops, 1u);
  EXPECT_EQ(pool_->stats().dropped_blocks, 4u);
  Check({&a});
  pool_->Extend(a, 51);
  pool_->Commit(a, tokens);
  SpillNow(a);
  pool_->Drop(a);
  EXPECT_EQ(arena_->stats().bytes, 0u);
  KvSequence b;
  Start(b, Tokens(100, 1000), 100);
  EXPECT_FALSE(pool_->Readmit(a, tokens, 100)) << "1 block is left of 8";
  EXPECT_EQ(a.place(), KvPlace::kDropped);
  Check({&a, &b});
  pool_->Release(b);
  pool_->Release(a);
}

TEST_F(BlockMovesTest, WithAMoverOfItsOwnThread) {
  Make(64, 64, 8);
  const auto mover = MakeKvMover({.max_jobs = 16, .chunk_bytes = 300, .copy = {}});
  auto await = [&](KvMove move) {
    std::promise<KvMoveOutcome> answered;
    ASSERT_TRUE(mover->Submit({.direction = move.direction,
                               .copies = std::move(move.copies),
                               .done = [&](KvMoveOutcome outcome) { answered.set_value(outcome); }}));
    EXPECT_EQ(answered.get_future().get(), KvMoveOutcome::kDone);
    EXPECT_TRUE(pool_->EndMove(move.id));
  };
  KvSequence sequences[3];
  for (int i = 0; i < 3; ++i) Start(sequences[i], Tokens(200 + i, 1000 * i), 256, false);
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 3; ++i) {
      auto out = pool_->BeginSpill(sequences[i], *arena_);
      ASSERT_TRUE(out);
      await(std::move(*out));
    }
    for (int i : {2, 0, 1}) {
      auto in = pool_->BeginRestore(sequences[i], {.history = Tokens(200 + i, 1000 * i), .max_tokens = 256});
      ASSERT_TRUE(in);
      await(std::move(*in));
      EXPECT_TRUE(Holds(sequences[i], Tokens(200 + i, 1000 * i)));
    }
  }
  for (KvSequence& sequence : sequences) pool_->Release(sequence);
}

}  // namespace
}  // namespace tidepool::compute
